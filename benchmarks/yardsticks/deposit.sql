\set wallet random(0, 9999)
\set key random(1, 9000000000000000000)
select y_deposit('w' || :wallet, 'k' || :key, 12.5);
