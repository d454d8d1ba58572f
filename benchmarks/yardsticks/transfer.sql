\set sender random(0, 999)
\set receiver (:sender + random(1, 999)) % 1000
\set key random(1, 9000000000000000000)
select y_transfer('w' || :sender, 'w' || :receiver, 'k' || :key, 0.01);
