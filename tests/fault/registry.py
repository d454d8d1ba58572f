"""Every experiment, by its number."""

from typing import Final

from tests.fault.experiment import Broker, Experiment
from tests.fault.experiments.api_kills import kill_the_api_between_steps
from tests.fault.experiments.brokers import break_the_broker
from tests.fault.experiments.clients import vanish
from tests.fault.experiments.clocks import put_the_clock_back_and_fail_over
from tests.fault.experiments.commits import hang_commits
from tests.fault.experiments.databases import restart_postgres, take_the_database_from_the_worker
from tests.fault.experiments.deliveries import deliver_again_and_again
from tests.fault.experiments.hostile import beset
from tests.fault.experiments.keys import send_one_key_a_thousand_times
from tests.fault.experiments.networks import cut_commits, silence_and_slow_the_network
from tests.fault.experiments.poison import poison_the_queue
from tests.fault.experiments.relays import kill_the_relay_between_steps
from tests.fault.experiments.sagas import kill_the_driver_between_steps
from tests.fault.experiments.stops import stop_everything_in_turn
from tests.fault.experiments.storms import storm
from tests.fault.experiments.tampering import tamper_with_the_books
from tests.fault.experiments.thefts import steal_and_forge
from tests.fault.experiments.together import break_several_things_at_once
from tests.fault.experiments.transports import change_the_transport
from tests.fault.experiments.workers import kill_the_worker_between_steps

EXPERIMENTS: Final = (
    Experiment(1, "api killed between steps", kill_the_api_between_steps, Broker.EITHER),
    Experiment(2, "relay killed, or a zombie", kill_the_relay_between_steps, Broker.SHARED),
    Experiment(3, "worker killed between steps", kill_the_worker_between_steps, Broker.EITHER),
    Experiment(4, "transfers lose their driver", kill_the_driver_between_steps, Broker.EITHER),
    Experiment(5, "broker stopped, killed, full", break_the_broker, Broker.OWN),
    Experiment(6, "PostgreSQL restarted, killed", restart_postgres, Broker.EITHER, has_own_postgres=True),
    Experiment(7, "COMMITs and answers lost", cut_commits, Broker.EITHER),
    Experiment(8, "network slow, then silent", silence_and_slow_the_network, Broker.EITHER),
    Experiment(9, "worker without a database", take_the_database_from_the_worker, Broker.SHARED, has_own_postgres=True),
    Experiment(10, "delivered again and again", deliver_again_and_again, Broker.EITHER),
    Experiment(11, "poison, and a handler's bug", poison_the_queue, Broker.SHARED),
    Experiment(12, "one key a thousand times", send_one_key_a_thousand_times, Broker.EITHER),
    Experiment(13, "storm, hot and new wallets", storm, Broker.EITHER),
    Experiment(14, "SIGTERM of everything", stop_everything_in_turn, Broker.EITHER),
    Experiment(15, "clients that vanish", vanish, Broker.EITHER),
    Experiment(16, "books tampered with", tamper_with_the_books, Broker.EITHER),
    Experiment(17, "several of these at once", break_several_things_at_once, Broker.OWN, has_own_postgres=True),
    Experiment(18, "COMMITs hang, clients retry", hang_commits, Broker.EITHER, has_own_postgres=True),
    Experiment(19, "change of transport", change_the_transport, Broker.SHARED),
    Experiment(20, "events stolen and forged", steal_and_forge, Broker.SHARED),
    Experiment(21, "clocks, two primaries", put_the_clock_back_and_fail_over, Broker.EITHER, has_own_postgres=True),
    Experiment(22, "a hostile client", beset, Broker.EITHER),
)
