// kafkajs: produce with its codecs and every acks, groups, time, transactions, admin.
// Speaks the lines that interop/clients/harness.py describes.
'use strict'
const crypto = require('crypto')
const assert = require('assert')
const lz4 = require('lz4js')
const { Kafka, CompressionTypes, CompressionCodecs, logLevel, Partitioners, ConfigResourceTypes } = require('kafkajs')

CompressionCodecs[CompressionTypes.Snappy] = require('kafkajs-snappy')
CompressionCodecs[CompressionTypes.LZ4] = () => ({
  compress: async (encoder) => Buffer.from(lz4.compress(encoder.buffer)),
  decompress: async (buffer) => Buffer.from(lz4.decompress(buffer))
})

const NOW = Date.now()
const TEST_TIMEOUT_MS = 45000
const kafka = new Kafka({ brokers: [process.env.BOOTSTRAP || '127.0.0.1:9092'], logLevel: logLevel.NOTHING })
const unique = (prefix) => `${prefix}-${crypto.randomBytes(4).toString('hex')}`
const tests = new Map()
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

async function withAdmin (body) {
  const admin = kafka.admin()
  await admin.connect()
  try {
    return await body(admin)
  } finally {
    await admin.disconnect()
  }
}

async function newTopic (prefix, partitions = 1, configEntries = []) {
  const topic = unique(prefix)
  await withAdmin((admin) => admin.createTopics({ topics: [{ topic, numPartitions: partitions, configEntries }] }))
  return topic
}

async function withProducer (body, options = {}) {
  const producer = kafka.producer({ createPartitioner: Partitioners.DefaultPartitioner, ...options })
  await producer.connect()
  try {
    return await body(producer)
  } finally {
    await producer.disconnect()
  }
}

async function eventually (condition, what, limitMs = 30000) {
  const deadline = Date.now() + limitMs
  while (!condition()) {
    assert(Date.now() < deadline, `not within ${limitMs} ms: ${what}`)
    await sleep(50)
  }
}

// A started group member; seen holds every message in the order it came.
async function member (topic, groupId, options = {}) {
  const consumer = kafka.consumer({ groupId, sessionTimeout: 10000, heartbeatInterval: 500, ...options })
  const state = { consumer, seen: [], assigned: [] }
  consumer.on(consumer.events.GROUP_JOIN, (event) => { state.assigned = event.payload.memberAssignment[topic] || [] })
  await consumer.connect()
  await consumer.subscribe({ topics: [topic], fromBeginning: true })
  await consumer.run({
    autoCommitThreshold: 1,
    eachMessage: async ({ partition, message }) => { state.seen.push({ partition, ...message }) }
  })
  state.stop = async () => { await consumer.stop(); await consumer.disconnect(); return state.seen }
  return state
}

async function readAll (topic, count, options = {}) {
  const reader = await member(topic, unique('reader'), options)
  try {
    await eventually(() => reader.seen.length >= count, `${count} records of ${topic}`, 20000)
    return reader.seen
  } finally {
    await reader.stop()
  }
}

const CODECS = { none: CompressionTypes.None, gzip: CompressionTypes.GZIP, snappy: CompressionTypes.Snappy, lz4: CompressionTypes.LZ4 }
for (const [codec, compression] of Object.entries(CODECS)) {
  for (const [name, acks] of [['0', 0], ['1', 1], ['all', -1]]) {
    tests.set(`produce-${codec}-acks-${name}`, async () => {
      const topic = await newTopic('produce')
      const messages = []
      for (let i = 0; i < 100; i++) {
        messages.push({
          key: i % 7 ? `key-${i % 10}` : null,
          value: i % 11 === 5 ? null : `value-${i}-`.repeat(1 + i % 30),
          headers: i % 2 ? { number: String(i) } : {},
          timestamp: String(NOW + i)
        })
      }
      await withProducer((producer) => producer.send({ topic, acks, compression, messages }))
      const found = await readAll(topic, 100)
      const text = (value) => value === null ? null : value.toString()
      const plain = (m) => [text(m.key), text(m.value), Object.entries(m.headers).map(([k, v]) => [k, text(v)]), m.timestamp]
      const sent = messages.map((m) => [m.key, m.value, Object.entries(m.headers), m.timestamp])
      assert.deepStrictEqual(found.map(plain), sent)
      assert.deepStrictEqual(found.map((m) => m.offset), messages.map((_, i) => String(i)))
    })
  }
}

tests.set('produce-idempotent', async () => {
  const topic = await newTopic('idempotent', 3)
  await withProducer(async (producer) => {
    for (let i = 0; i < 30; i++) {
      await producer.send({ topic, messages: [0, 1, 2].map((partition) => ({ partition, value: String(i) })) })
    }
  }, { idempotent: true })
  const found = await readAll(topic, 90)
  const expected = Array.from({ length: 30 }, (_, i) => String(i))
  for (const part of [0, 1, 2]) {
    assert.deepStrictEqual(found.filter((m) => m.partition === part).map((m) => m.value.toString()), expected)
  }
})

tests.set('topic-created-by-produce', async () => {
  const topic = unique('auto')
  await withProducer((producer) => producer.send({ topic, messages: [{ value: 'first' }] }))
  assert.deepStrictEqual((await readAll(topic, 1)).map((m) => m.value.toString()), ['first'])
})

tests.set('seek-by-time', async () => {
  const topic = await newTopic('time')
  await withProducer(async (producer) => {
    for (let i = 0; i < 10; i++) {
      const messages = Array.from({ length: 10 }, (_, j) => ({ value: String(i * 10 + j), timestamp: String(NOW + (i * 10 + j) * 10) }))
      await producer.send({ topic, messages })
    }
  })
  await withAdmin(async (admin) => {
    for (const [asked, offset] of [[0, '0'], [495, '50'], [500, '50'], [501, '51'], [990, '99']]) {
      const found = await admin.fetchTopicOffsetsByTimestamp(topic, NOW + asked)
      assert.deepStrictEqual(found, [{ partition: 0, offset }])
    }
    const ends = await admin.fetchTopicOffsets(topic)
    assert.deepStrictEqual(ends.map((e) => [e.low, e.high]), [['0', '100']])
  })
  const groupId = unique('group')
  await withAdmin((admin) => admin.setOffsets({ groupId, topic, partitions: [{ partition: 0, offset: '70' }] }))
  const reader = await member(topic, groupId)
  await eventually(() => reader.seen.length >= 30, 'records from offset 70')
  assert.strictEqual((await reader.stop())[0].value.toString(), '70')
})

tests.set('group-rebalance-and-restart', async () => {
  const topic = await newTopic('group', 4)
  const groupId = unique('group')
  await withProducer(async (producer) => {
    const send = async (first, last) => {
      const messages = []
      for (let i = first; i < last; i++) messages.push({ partition: i % 4, value: String(i) })
      await producer.send({ topic, messages })
    }
    await send(0, 100)
    const one = await member(topic, groupId)
    await eventually(() => one.seen.length >= 100, 'the first member to read 100 records')
    const two = await member(topic, groupId)
    await eventually(() => one.assigned.length === 2 && two.assigned.length === 2, 'each member to get half')
    await send(100, 200)
    await eventually(() => one.seen.length + two.seen.length >= 200, 'both members to read 200 records')
    assert(two.seen.length > 0, 'the second member read nothing')
    const seen = await two.stop()
    await eventually(() => one.assigned.length === 4, 'the first member to get all')
    await send(200, 300)
    await eventually(() => one.seen.length + seen.length >= 300, 'the first member to read all partitions again')
    const all = [...await one.stop(), ...seen].map((m) => Number(m.value.toString())).sort((a, b) => a - b)
    assert.deepStrictEqual(all, Array.from({ length: 300 }, (_, i) => i))
    await send(300, 350)
    const again = await member(topic, groupId)
    await eventually(() => again.seen.length >= 50, 'the restarted member to go on')
    const rest = (await again.stop()).map((m) => Number(m.value.toString())).sort((a, b) => a - b)
    assert.deepStrictEqual(rest, Array.from({ length: 50 }, (_, i) => 300 + i))
  })
})

tests.set('transaction-commit-and-abort', async () => {
  const topic = await newTopic('transaction', 2)
  await withProducer(async (producer) => {
    for (const name of ['a', 'b', 'c']) {
      const transaction = await producer.transaction()
      await transaction.send({ topic, messages: Array.from({ length: 10 }, (_, i) => ({ partition: i % 2, value: name })) })
      await (name === 'b' ? transaction.abort() : transaction.commit())
    }
  }, { idempotent: true, maxInFlightRequests: 1, transactionalId: unique('tx') })
  const committed = (await readAll(topic, 20)).map((m) => m.value.toString()).sort().join('')
  assert.strictEqual(committed, 'aaaaaaaaaacccccccccc')
  assert.strictEqual((await readAll(topic, 30, { readUncommitted: true })).length, 30)
})

tests.set('transaction-offsets', async () => {
  const topic = await newTopic('source')
  const sink = await newTopic('sink')
  const groupId = unique('group')
  await withProducer(async (producer) => {
    for (const commit of [false, true]) {
      const transaction = await producer.transaction()
      await transaction.send({ topic: sink, messages: [{ value: String(commit) }] })
      await transaction.sendOffsets({ consumerGroupId: groupId, topics: [{ topic, partitions: [{ partition: 0, offset: '5' }] }] })
      await (commit ? transaction.commit() : transaction.abort())
      await sleep(200)
      const offsets = await withAdmin((admin) => admin.fetchOffsets({ groupId, topics: [topic] }))
      assert.strictEqual(offsets[0].partitions[0].offset, commit ? '5' : '-1')
    }
  }, { idempotent: true, maxInFlightRequests: 1, transactionalId: unique('tx') })
  assert.deepStrictEqual((await readAll(sink, 1)).map((m) => m.value.toString()), ['true'])
})

tests.set('admin-topics', () => withAdmin(async (admin) => {
  const topic = unique('admin')
  assert.strictEqual(await admin.createTopics({ topics: [{ topic, numPartitions: 3 }], waitForLeaders: true }), true)
  assert.strictEqual(await admin.createTopics({ topics: [{ topic, numPartitions: 3 }] }), false)
  assert((await admin.listTopics()).includes(topic))
  await admin.createPartitions({ topicPartitions: [{ topic, count: 5 }] })
  await sleep(200)
  const metadata = await admin.fetchTopicMetadata({ topics: [topic] })
  assert.strictEqual(metadata.topics[0].partitions.length, 5)
  await admin.deleteTopics({ topics: [topic] })
  await sleep(200)
  assert(!(await admin.listTopics()).includes(topic))
}))

tests.set('admin-configs', () => withAdmin(async (admin) => {
  const topic = await newTopic('configs', 1, [{ name: 'retention.ms', value: '100000' }])
  const resource = { type: ConfigResourceTypes.TOPIC, name: topic }
  const value = async (name) => {
    const answer = await admin.describeConfigs({ resources: [resource], includeSynonyms: false })
    return answer.resources[0].configEntries.find((entry) => entry.configName === name).configValue
  }
  assert.strictEqual(await value('retention.ms'), '100000')
  await admin.alterConfigs({ validateOnly: false, resources: [{ ...resource, configEntries: [{ name: 'max.message.bytes', value: '54321' }] }] })
  await sleep(200)
  assert.strictEqual(await value('max.message.bytes'), '54321')
}))

tests.set('admin-groups', () => withAdmin(async (admin) => {
  const topic = await newTopic('groups')
  const groupId = unique('group')
  await withProducer((producer) => producer.send({ topic, messages: [{ value: 'x' }] }))
  const reader = await member(topic, groupId)
  await eventually(() => reader.seen.length === 1, 'the member to read')
  const described = (await admin.describeGroups([groupId])).groups[0]
  assert.strictEqual(described.state, 'Stable')
  assert.strictEqual(described.members.length, 1)
  assert((await admin.listGroups()).groups.some((group) => group.groupId === groupId))
  await reader.stop()
  const deleted = await admin.deleteGroups([groupId])
  assert.strictEqual(deleted[0].errorCode, 0)
}))

tests.set('admin-delete-records', () => withAdmin(async (admin) => {
  const topic = await newTopic('records')
  await withProducer((producer) => producer.send({ topic, messages: Array.from({ length: 10 }, (_, i) => ({ value: String(i) })) }))
  // deleteTopicRecords looks the topic up among those that this client has loaded, and loads none itself.
  await admin.fetchTopicOffsets(topic)
  await admin.deleteTopicRecords({ topic, partitions: [{ partition: 0, offset: '4' }] })
  assert.deepStrictEqual((await admin.fetchTopicOffsets(topic)).map((e) => e.low), ['4'])
}))

tests.set('admin-cluster', () => withAdmin(async (admin) => {
  const cluster = await admin.describeCluster()
  assert.strictEqual(cluster.brokers.length, 1)
  assert(cluster.clusterId)
}))

async function main () {
  const chosen = process.argv.length > 2 ? process.argv.slice(2) : [...tests.keys()]
  console.log(`PLAN ${chosen.join(' ')}`)
  let failed = false
  for (const name of chosen) {
    let timer
    const limit = new Promise((resolve, reject) => {
      timer = setTimeout(() => reject(new Error(`still running after ${TEST_TIMEOUT_MS} ms`)), TEST_TIMEOUT_MS)
    })
    try {
      await Promise.race([tests.get(name)(), limit])
      console.log(`PASS ${name}`)
    } catch (error) {
      failed = true
      console.log(`FAIL ${name} ${String(error.message || error).replace(/\s+/g, ' ').slice(0, 400)}`)
    }
    clearTimeout(timer)
  }
  process.exit(failed ? 1 : 0)
}

main()
