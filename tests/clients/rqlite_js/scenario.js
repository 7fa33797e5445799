// What an application does with rqlite-js, unmodified: types, parameters, transactions, blobs,
// dates, unicode.

const assert = require('assert')
const { DataApiClient, StatusApiClient } = require('rqlite-js')

// Writes one row after the other for some seconds and prints the numbers of those that were acknowledged.
async function steadily (client) {
  const created = await client.execute('CREATE TABLE steady(n INTEGER)')
  assert.strictEqual(created.hasError(), false, created.toString())
  const begin = Date.now()
  for (let n = 1; Date.now() - begin < 6000; n++) {
    const written = await client.execute([['INSERT INTO steady VALUES(?)', n]]).catch(() => null)
    if (written && !written.hasError()) {
      console.log(n)
    } else {
      await new Promise((resolve) => setTimeout(resolve, 50))
    }
  }
}

async function main () {
  const url = `http://${process.argv[2]}`
  const client = new DataApiClient(url)
  if (process.argv[3] === 'steadily') {
    return steadily(client)
  }

  let results = await client.execute(
    'CREATE TABLE item(id INTEGER PRIMARY KEY, name TEXT, price REAL, flag BOOLEAN, at DATETIME, raw BLOB)'
  )
  assert.strictEqual(results.hasError(), false, results.toString())

  // Parameters: positional, named, blobs as arrays of bytes.
  const name = 'Grüße, 世界 😀 \'quoted\' "double" <&>'
  results = await client.execute([[
    'INSERT INTO item(name, price, flag, at, raw) VALUES(?, ?, ?, ?, ?)',
    name, 19.25, true, '2020-02-29 23:59:58.5', [0, 1, 255]
  ]])
  assert.strictEqual(results.hasError(), false, results.toString())
  assert.strictEqual(results.get(0).getLastInsertId(), 1)
  assert.strictEqual(results.get(0).getRowsAffected(), 1)
  results = await client.execute([['INSERT INTO item(name, price) VALUES(:name, :price)', { name: null, price: -0.5 }]])
  assert.strictEqual(results.get(0).getLastInsertId(), 2)

  results = await client.query('SELECT * FROM item ORDER BY id')
  assert.strictEqual(results.getResults().length, 2)
  assert.deepStrictEqual(results.get(0).toObject(), {
    id: 1, name, price: 19.25, flag: true, at: '2020-02-29T23:59:58.5Z', raw: Buffer.from([0, 1, 255]).toString('base64')
  })
  assert.deepStrictEqual(results.get(1).toObject(), { id: 2, name: null, price: -0.5, flag: null, at: null, raw: null })

  // Queries by POST, with levels and parameters.
  for (const level of ['none', 'weak', 'linearizable', 'strong']) {
    results = await client.query([['SELECT name FROM item WHERE id = ?', 1], 'SELECT 7 AS seven'], { level })
    assert.strictEqual(results.get(0).get('name'), name)
    assert.strictEqual(results.get(1).get('seven'), 7)
  }
  results = await client.query('SELECT * FROM item WHERE id > 100')
  assert.strictEqual(results.getResults().length, 1)
  assert.deepStrictEqual(results.get(0).toObject(), {})

  // Counts, timings, errors.
  results = await client.execute(['UPDATE item SET price = 1', 'DELETE FROM item WHERE id = 2'], { timings: true })
  assert.deepStrictEqual(results.getResults().map((result) => result.getRowsAffected()), [2, 1])
  assert.ok(results.getTime() > 0)
  results = await client.query('SELECT * FROM nope')
  assert.strictEqual(results.getFirstError().message, 'no such table: nope')

  // Transactions: all or nothing.
  await client.execute('CREATE TABLE once(n INTEGER UNIQUE)')
  const statements = ['INSERT INTO once VALUES(1)', 'INSERT INTO once VALUES(1)', 'INSERT INTO once VALUES(2)']
  results = await client.execute(statements, { transaction: true })
  assert.strictEqual(results.getFirstError().message, 'UNIQUE constraint failed: once.n')
  results = await client.query('SELECT count(*) AS n FROM once')
  assert.strictEqual(results.get(0).get('n'), 0)
  results = await client.execute(statements)
  assert.strictEqual(results.hasError(), true)
  results = await client.query('SELECT count(*) AS n FROM once')
  assert.strictEqual(results.get(0).get('n'), 2)

  const [{ response }] = await new StatusApiClient(url).statusAllHosts()
  assert.strictEqual(typeof response.body.store.node_id, 'string')
  console.log('rqlite-js: ok')
}

main().catch((error) => {
  console.error(error)
  process.exit(1)
})
