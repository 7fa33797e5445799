-- Literals, operators, functions. Every statement stands alone.

SELECT 1, -1, 9223372036854775807, -9223372036854775808, 0x7f, 1e3, .5, 'it''s', NULL, x'6162'

SELECT 1 + 1, 7 / 2, 7 % 3, 7.0 / 2, 1 / 0, -7 / 2, 5 % -3, 2 * 3.5, 9223372036854775807 + 1

SELECT 1 = 1.0, '1' = 1, 'a' < 'b', 'a' = 'A', 'a' = 'A' COLLATE NOCASE, NULL = NULL, NULL IS NULL, 1 IS NOT 2, 1 <> 2

SELECT 5 & 3, 5 | 3, ~5, 1 << 4, 256 >> 4, NOT 1, NOT NULL, 1 AND NULL, 0 AND NULL, 1 OR NULL

SELECT 'a' || 'b' || 1 || 2.5 || NULL, 'a' || 1.0, 'abc' LIKE 'A%', 'abc' GLOB 'a*', 'a%c' LIKE 'a\%c' ESCAPE '\', 'abc' NOT LIKE '%d%'

SELECT 3 BETWEEN 1 AND 5, 3 NOT BETWEEN 4 AND 5, 3 IN (1, 2, 3), 3 NOT IN (1, NULL), NULL IN (), EXISTS (SELECT 1)

SELECT CASE 2 WHEN 1 THEN 'one' WHEN 2 THEN 'two' ELSE 'many' END, CASE WHEN NULL THEN 1 END, iif(1, 'yes', 'no')

SELECT CAST('12abc' AS INTEGER), CAST('1e2' AS REAL), CAST(1.9 AS INTEGER), CAST(65 AS TEXT), hex(CAST('A' AS BLOB)), CAST('9223372036854775808' AS INTEGER), CAST('abc' AS NUMERIC)

SELECT typeof(1), typeof(1.0), typeof('1'), typeof(x'00'), typeof(NULL), typeof(1 + '2'), typeof('1' + 2.0)

SELECT abs(-5), abs('-5.5'), max(1, 3, 2), min('b', 'a'), round(2.5), round(-2.5), round(2.567, 2), sign(-3.5)

SELECT length('héé'), length(x'0001'), upper('abcé'), lower('ABC'), trim('  x '), ltrim('xxa', 'x'), rtrim('axx', 'x'), replace('aXbX', 'X', '-')

SELECT substr('hello', 2, 3), substr('hello', -3), substring('hello', 0, 3), substr('hello', 2, -1), instr('hello', 'l'), instr('hello', 'z')

SELECT coalesce(NULL, NULL, 3), ifnull(NULL, 'x'), nullif(1, 1), nullif(1, 2), quote('it''s'), quote(x'00ff'), quote(1.5), quote(NULL)

SELECT printf('%d|%5d|%-5d|%05d|%s|%q|%.3f|%x|%c|%%', 42, 42, 42, 42, 'x', 'it''s', 3.14159, 255, 'abc'), format('%,d', 1234567)

SELECT hex('abc'), hex(zeroblob(3)), unicode('é'), char(233, 128512), hex(x'0aF0')

SELECT date('2024-02-29', '+1 year'), datetime('2024-01-31', '+1 month'), time('12:34:56.789'), strftime('%Y %j %W %w %s %f', '2024-03-10 01:02:03.5'), julianday('2000-01-01'), unixepoch('2000-01-01')

SELECT date('2024-12-31', 'start of year', '+6 months', 'weekday 1'), datetime(0, 'unixepoch'), datetime('2024-01-01T12:00+02:00'), date('nonsense')

SELECT json('{"a" : [1, 2.5, "x", null, true]}'), json_extract('{"a":{"b":[10,20]}}', '$.a.b[1]'), '{"a":1}' -> 'a', '{"a":"x"}' ->> 'a', json_type('[1]'), json_valid('{'), json_array(1, 'x', NULL), json_object('k', 1.5)

SELECT key, value, type FROM json_each('{"a":1,"b":[2,3],"c":"x"}') ORDER BY key

SELECT sum(x), total(x), avg(x), count(*), count(x), min(x), max(x), group_concat(x, '-') FROM (SELECT 1 AS x UNION ALL SELECT 2 UNION ALL SELECT NULL UNION ALL SELECT 3)

SELECT sum(x) FROM (SELECT 1 AS x WHERE 0)

SELECT abs(-9223372036854775808)

SELECT 1 +

SELECT nope(1)

VALUES (1, 'a'), (2, 'b')

WITH RECURSIVE fib(a, b) AS (SELECT 0, 1 UNION ALL SELECT b, a + b FROM fib LIMIT 20) SELECT group_concat(a) FROM fib

SELECT 1 UNION SELECT 2 UNION SELECT 1 ORDER BY 1 DESC

SELECT 1 UNION ALL SELECT 1 EXCEPT SELECT 2 INTERSECT SELECT 1

SELECT "quoted name" FROM (SELECT 1 AS "quoted name")

SELECT 1 AS a, 2 AS a, 3 AS "select"
