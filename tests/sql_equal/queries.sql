-- Joins, groups, windows, subqueries over a small shop.

CREATE TABLE customer(id INTEGER PRIMARY KEY, name TEXT, country TEXT)

CREATE TABLE orders(id INTEGER PRIMARY KEY, customer INTEGER REFERENCES customer(id), day TEXT, total NUMERIC)

CREATE TABLE line(orders INTEGER, product TEXT, amount INTEGER, price REAL)

INSERT INTO customer(name, country) VALUES('Ann', 'NO'), ('Bob', 'IT'), ('Cyd', 'NO'), ('Dan', NULL)

WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40) INSERT INTO orders(customer, day, total) SELECT i % 3 + 1, date('2024-01-01', '+' || (i * 3) || ' days'), i * 10.5 FROM n

INSERT INTO line SELECT id, 'p' || (id % 5), id % 7 + 1, total / 2 FROM orders

INSERT INTO line SELECT id, 'q' || (id % 3), 1, total / 2 FROM orders WHERE id % 2 = 0

SELECT count(*), sum(total), typeof(sum(total)) FROM orders

SELECT c.name, count(o.id) AS n, sum(o.total) AS s FROM customer AS c LEFT JOIN orders AS o ON o.customer = c.id GROUP BY c.id ORDER BY s DESC NULLS LAST

SELECT country, count(*) FROM customer GROUP BY country HAVING count(*) > 1

SELECT name FROM customer NATURAL JOIN (SELECT 'Ann' AS name UNION SELECT 'Zoe')

SELECT a.id, b.id FROM customer AS a CROSS JOIN customer AS b WHERE a.id < b.id ORDER BY 1, 2

SELECT c.name, o.id FROM orders AS o RIGHT JOIN customer AS c ON c.id = o.customer AND o.id < 4 ORDER BY c.id, o.id

SELECT c.name, o.id FROM customer AS c FULL OUTER JOIN orders AS o ON c.id = o.customer AND o.id > 38 WHERE o.id > 36 OR o.id IS NULL ORDER BY 1, 2

SELECT name, (SELECT max(total) FROM orders WHERE customer = c.id) AS best FROM customer AS c ORDER BY name

SELECT name FROM customer AS c WHERE NOT EXISTS (SELECT 1 FROM orders WHERE customer = c.id)

SELECT id FROM orders WHERE total > (SELECT avg(total) FROM orders) AND customer IN (SELECT id FROM customer WHERE country = 'NO') ORDER BY id LIMIT 5 OFFSET 2

SELECT id, total, row_number() OVER w, rank() OVER w, lag(total) OVER w, sum(total) OVER (ORDER BY id ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM orders WHERE id < 8 WINDOW w AS (PARTITION BY customer ORDER BY total DESC) ORDER BY id

SELECT ntile(4) OVER (ORDER BY id), percent_rank() OVER (ORDER BY total), first_value(id) OVER (PARTITION BY customer ORDER BY id) FROM orders WHERE id <= 10 ORDER BY id

SELECT product, sum(amount * price) AS turnover FROM line GROUP BY product ORDER BY turnover DESC, product LIMIT 3

SELECT strftime('%Y-%m', day) AS month, count(*), round(sum(total), 2) FROM orders GROUP BY month ORDER BY month

SELECT DISTINCT product FROM line ORDER BY product COLLATE NOCASE DESC

SELECT count(DISTINCT customer), group_concat(DISTINCT product) FROM line JOIN orders ON line.orders = orders.id WHERE orders.id < 5

SELECT count(*) FILTER (WHERE total > 100), sum(total) FILTER (WHERE customer = 1) FROM orders

WITH big AS MATERIALIZED (SELECT * FROM orders WHERE total > 300), small(n) AS (SELECT count(*) FROM big) SELECT big.id, small.n FROM big, small ORDER BY big.id

SELECT * FROM (SELECT id FROM customer UNION ALL SELECT id FROM orders WHERE id < 3) ORDER BY id LIMIT 4

SELECT id FROM orders ORDER BY total % 50, id DESC LIMIT 6

SELECT max(total), id FROM orders

SELECT (1, 2) < (1, 3), (SELECT 1, 2) = (1, 2)

DELETE FROM line WHERE orders IN (SELECT id FROM orders WHERE customer = 2)

UPDATE orders SET total = (SELECT sum(amount * price) FROM line WHERE orders = orders.id) WHERE id < 10

SELECT id, total FROM orders ORDER BY id

