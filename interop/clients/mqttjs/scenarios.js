// What MQTT.js is put through, in Node and in a page alike: `scenarios(mqtt, url, control)` returns name -> async function.
// A message that must not come is proved absent by one that must come behind it.
'use strict'
;(function (root) {
  const WAIT_MS = 20000
  const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
  const unique = (prefix) => `${prefix}-${Math.random().toString(36).slice(2, 12)}`

  function same (found, expected, what) {
    const [a, b] = [JSON.stringify(found), JSON.stringify(expected)]
    if (a !== b) throw new Error(`${what}: found ${a.slice(0, 200)}, expected ${b.slice(0, 200)}`)
  }

  async function eventually (condition, what) {
    const deadline = Date.now() + WAIT_MS
    while (!condition()) {
      if (Date.now() > deadline) throw new Error(`not within ${WAIT_MS} ms: ${what}`)
      await sleep(20)
    }
  }

  function scenarios (mqtt, url, control) {
    const tests = {}
    const numbers = (count) => Array.from({ length: count }, (_, number) => String(number))

    // A connected client: seen holds every message in the order it came, closedWith the reason of a server's DISCONNECT.
    async function connect (version, options = {}) {
      const client = mqtt.connect(url, {
        clientId: unique('js'), protocolVersion: version, reconnectPeriod: 0, connectTimeout: WAIT_MS, ...options
      })
      const device = { client, seen: [], closedWith: null }
      client.on('message', (topic, payload, packet) => {
        const { qos, retain, properties } = packet
        device.seen.push({ topic, payload: payload.toString(), bytes: payload.length, qos, retain, properties })
      })
      client.on('disconnect', (packet) => { device.closedWith = packet.reasonCode })
      device.connack = await new Promise((resolve, reject) => {
        client.once('connect', resolve)
        client.once('error', reject)
        client.once('close', () => reject(new Error('closed before CONNACK')))
      })
      client.on('error', () => {})
      device.publish = (topic, payload, opts = {}) => client.publishAsync(topic, payload, opts)
      device.subscribe = async (filter, opts) => (await client.subscribeAsync(filter, opts)).map((one) => one.qos)
      device.wait = async (count) => {
        await eventually(() => device.seen.length >= count, `${count} messages (there are ${device.seen.length})`)
        return device.seen
      }
      device.payloads = (topic) => device.seen.filter((one) => !topic || one.topic === topic).map((one) => one.payload)
      device.end = () => client.endAsync(false)
      device.drop = () => client.stream.destroy()
      return device
    }

    const durable = (version, clientId, clean = false) => version === 5
      ? { clientId, clean, properties: { sessionExpiryInterval: 3600 } }
      : { clientId, clean: false }

    for (const version of [4, 5]) {
      const add = (name, body) => { tests[`${name}-v${version === 4 ? '3.1.1' : '5'}`] = body }

      add('qos-both-ways', async () => {
        const topic = unique('qos')
        const subscribers = []
        for (const qos of [0, 1, 2]) {
          const one = await connect(version)
          same(await one.subscribe(`${topic}/+`, { qos }), [qos], 'granted QoS')
          subscribers.push(one)
        }
        const publisher = await connect(version)
        for (const qos of [0, 1, 2]) {
          await Promise.all(numbers(50).map((number) => publisher.publish(`${topic}/${qos}`, number, { qos })))
        }
        for (const [granted, one] of subscribers.entries()) {
          await one.wait(150)
          for (const qos of [0, 1, 2]) {
            same(one.payloads(`${topic}/${qos}`), numbers(50), `payloads ${qos}->${granted}`)
            const found = new Set(one.seen.filter((got) => got.topic === `${topic}/${qos}`).map((got) => got.qos))
            same([...found], [Math.min(qos, granted)], `QoS ${qos}->${granted}`)
          }
        }
        for (const one of [...subscribers, publisher]) await one.end()
      })

      add('retained', async () => {
        const topic = unique('retained')
        const publisher = await connect(version)
        for (const number of numbers(4)) await publisher.publish(`${topic}/${number}`, number, { qos: 1, retain: true })
        await publisher.publish(`${topic}/1`, '', { qos: 1, retain: true })
        const late = await connect(version)
        await late.subscribe(`${topic}/#`, { qos: 1 })
        const seen = await late.wait(3)
        same(seen.map((got) => got.payload).sort(), ['0', '2', '3'], 'retained messages')
        same(seen.every((got) => got.retain), true, 'RETAIN')
        await late.end()
        await publisher.end()
      })

      add('will', async () => {
        const topic = unique('will')
        const watcher = await connect(version)
        await watcher.subscribe(`${topic}/#`, { qos: 1 })
        const clean = await connect(version, { will: { topic: `${topic}/clean`, payload: 'no', qos: 1 } })
        await clean.end()
        const cut = await connect(version, { will: { topic: `${topic}/cut`, payload: 'gone', qos: 1 } })
        cut.drop()
        same((await watcher.wait(1)).map((got) => got.topic), [`${topic}/cut`], 'wills')
        await watcher.end()
      })

      const offline = (how) => async () => {
        const [topic, clientId] = [unique('session'), unique('device')]
        let device = await connect(version, durable(version, clientId, true))
        await device.subscribe(`${topic}/#`, { qos: 2 })
        await device.end()
        const publisher = await connect(version)
        for (const number of numbers(30)) await publisher.publish(`${topic}/a`, number, { qos: 1 + number % 2 })
        await publisher.end()
        if (how) await control(how)
        device = await connect(version, durable(version, clientId))
        same(device.connack.sessionPresent, true, 'session present')
        await device.wait(30)
        same(device.payloads().map(Number).sort((a, b) => a - b).map(String), numbers(30), 'payloads')
        await device.end()
        device = await connect(version, { clientId, clean: true })
        same(device.connack.sessionPresent, false, 'session present after a clean start')
        await device.end()
      }
      add('persistent-session', offline(''))
      add('persistent-session-over-restart', offline('restart'))
      add('persistent-session-over-kill', offline('kill'))

      add('reconnects-by-itself-after-a-kill', async () => {
        const topic = unique('again')
        const device = await connect(version, { ...durable(version, unique('device')), reconnectPeriod: 100 })
        await device.subscribe(topic, { qos: 2 })
        const publisher = await connect(version, { ...durable(version, unique('device')), reconnectPeriod: 100 })
        const sending = numbers(200).map((number) => publisher.publish(topic, number, { qos: 2 }))
        await control('kill')
        await Promise.all(sending)
        await device.wait(200)
        same(device.payloads().map(Number).sort((a, b) => a - b).map(String), numbers(200), 'each message once')
        await device.end()
        await publisher.end()
      })

      add('shared-subscription', async () => {
        const [topic, group] = [unique('shared'), unique('group')]
        const members = [await connect(version), await connect(version)]
        for (const one of members) await one.subscribe(`$share/${group}/${topic}/+`, { qos: 1 })
        const publisher = await connect(version)
        await Promise.all(numbers(100).map((number) => publisher.publish(`${topic}/x`, number, { qos: 1 })))
        await eventually(() => members[0].seen.length + members[1].seen.length >= 100, '100 messages')
        const every = members.flatMap((one) => one.payloads()).map(Number).sort((a, b) => a - b).map(String)
        same(every, numbers(100), 'each message to one member')
        for (const one of [...members, publisher]) await one.end()
      })

      add('large-payload', async () => {
        const topic = unique('large')
        const [device, publisher] = [await connect(version), await connect(version)]
        await device.subscribe(topic, { qos: 2 })
        const sizes = [65535, 65536, 300000, 1000000]
        for (const bytes of sizes) await publisher.publish(topic, 'x'.repeat(bytes), { qos: 1 })
        await device.wait(sizes.length)
        same(device.seen.map((got) => got.bytes), sizes, 'sizes')
        await device.end()
        await publisher.end()
      })

      add('keep-alive', async () => {
        const topic = unique('idle')
        const [device, publisher] = [await connect(version, { keepalive: 1 }), await connect(version)]
        await device.subscribe(topic, { qos: 1 })
        await sleep(3000)
        await publisher.publish(topic, 'still there', { qos: 1 })
        same((await device.wait(1))[0].payload, 'still there', 'after three keep alives')
        await device.end()
        await publisher.end()
      })

      add('take-over', async () => {
        const clientId = unique('device')
        const first = await connect(version, durable(version, clientId, true))
        const second = await connect(version, durable(version, clientId))
        same(second.connack.sessionPresent, true, 'session present')
        await eventually(() => !first.client.connected, 'the end of the first connection')
        if (version === 5) same(first.closedWith, 0x8e, 'reason code')
        await second.end()
      })
    }

    tests['properties-v5'] = async () => {
      const topic = unique('properties')
      const [device, publisher] = [await connect(5), await connect(5)]
      await device.subscribe(`${topic}/a`, { qos: 2, properties: { subscriptionIdentifier: 77 } })
      const properties = {
        payloadFormatIndicator: true,
        messageExpiryInterval: 60,
        contentType: 'text/plain',
        responseTopic: `${topic}/answers`,
        correlationData: Buffer.from([0, 255, 1]),
        userProperties: { a: ['1', '2'], ä: '' }
      }
      await publisher.publish(`${topic}/a`, 'text', { qos: 2, properties })
      const found = { ...(await device.wait(1))[0].properties }
      same(found.messageExpiryInterval >= 55, true, 'expiry')
      same([...found.correlationData], [0, 255, 1], 'correlation data')
      same({ ...found.userProperties }, { a: ['1', '2'], ä: '' }, 'user properties')
      same([found.subscriptionIdentifier].flat(), [77], 'subscription identifier')
      same([found.contentType, found.responseTopic, found.payloadFormatIndicator],
        ['text/plain', `${topic}/answers`, true], 'texts')
      await device.end()
      await publisher.end()
    }

    tests['topic-alias-v5'] = async () => {
      const topic = unique('alias')
      const device = await connect(5, { properties: { topicAliasMaximum: 5 } })
      const publisher = await connect(5, { autoUseTopicAlias: true, autoAssignTopicAlias: true })
      await device.subscribe(`${topic}/#`, { qos: 1 })
      const sent = numbers(40).map((number) => [`${topic}/${number % 8}`, number])
      for (const [name, number] of sent) await publisher.publish(name, number, { qos: 1 })
      const seen = await device.wait(40)
      same(seen.map((got) => [got.topic, got.payload]), sent, 'topics and payloads')
      await device.end()
      await publisher.end()
    }

    tests['receive-maximum-v5'] = async () => {
      const topic = unique('window')
      const device = await connect(5, { properties: { receiveMaximum: 2 } })
      const publisher = await connect(5)
      await device.subscribe(topic, { qos: 2 })
      await Promise.all(numbers(100).map((number) => publisher.publish(topic, number, { qos: 2 })))
      await device.wait(100)
      same(device.payloads(), numbers(100), 'payloads')
      await device.end()
      await publisher.end()
    }
    return tests
  }

  if (typeof module !== 'undefined' && module.exports) module.exports = { scenarios }
  else root.scenarios = scenarios
})(typeof self !== 'undefined' ? self : this)
