-- The triggers that keep rows from being changed or deleted fire in every session, also in one that has set
-- session_replication_role to replica: no session variable lets a row be changed.

alter table events enable always trigger events_append_only;
alter table events enable always trigger events_no_truncate;
alter table operations enable always trigger operations_settle_once;
alter table operations enable always trigger operations_no_truncate;
alter table transfers enable always trigger transfers_move_forward;
alter table transfers enable always trigger transfers_no_truncate;
alter table transfer_credits enable always trigger transfer_credits_append_only;
alter table transfer_credits enable always trigger transfer_credits_no_truncate;
alter table api_audit enable always trigger api_audit_settle_once;
alter table api_audit enable always trigger api_audit_no_truncate;
alter table journal enable always trigger journal_set_once;
alter table journal enable always trigger journal_no_truncate;
alter table trail_prunings enable always trigger trail_prunings_append_only;
alter table trail_prunings enable always trigger trail_prunings_no_truncate;
alter table trail_prunings enable always trigger trail_prunings_describe;
alter table trail_prunings enable always trigger trail_prunings_delete;
