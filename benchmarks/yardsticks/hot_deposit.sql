\set key random(1, 9000000000000000000)
select y_deposit('w0', 'k' || :key, 12.5);
