\set sender random(1, 999)
\set key random(1, 9000000000000000000)
select y_transfer('w' || :sender, 'w0', 'k' || :key, 0.01);
