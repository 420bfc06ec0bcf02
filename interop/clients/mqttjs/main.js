// MQTT.js through scenarios.js: `main.js tcp|websocket|page [test ...]`. `page` runs it inside headless Chromium (from
// Debian), over WebSocket as pages do. Speaks the lines that interop/clients/harness.py describes.
'use strict'
const fs = require('fs')
const net = require('net')
const os = require('os')
const path = require('path')

const TEST_TIMEOUT_MS = 45000
const CHROMIUM = ['/usr/bin/chromium', '/usr/bin/chromium-browser'].find((file) => fs.existsSync(file))
const FLAGS = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
  '--disable-background-networking', '--disable-component-update', '--disable-sync']

// Has the broker restarted, see interop/control.py.
function control (command) {
  const [host, port] = process.env.CONTROL.split(':')
  return new Promise((resolve, reject) => {
    const socket = net.connect(Number(port), host, () => socket.write(`${command}\n`))
    socket.on('data', (data) => data.toString().trim() === 'ok' ? resolve() : reject(new Error(data.toString())))
    socket.on('error', reject)
  })
}

function inNode (url) {
  const tests = require('./scenarios.js').scenarios(require('mqtt'), url, control)
  return { names: Object.keys(tests), run: (name) => tests[name](), close: async () => {} }
}

async function inPage (url) {
  const { chromium } = require('playwright-core')
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'trivium-chromium-'))
  const context = await chromium.launchPersistentContext(folder, { executablePath: CHROMIUM, args: FLAGS, headless: true })
  const page = await context.newPage()
  await page.exposeFunction('control', control)
  await page.addScriptTag({ path: path.join(path.dirname(require.resolve('mqtt/package.json')), 'dist', 'mqtt.min.js') })
  await page.addScriptTag({ path: path.join(__dirname, 'scenarios.js') })
  const names = await page.evaluate((at) => {
    self.Buffer = self.Buffer || Uint8Array
    self.tests = self.scenarios(self.mqtt, at, self.control)
    return Object.keys(self.tests)
  }, url)
  return {
    names,
    run: (name) => page.evaluate((one) => self.tests[one](), name),
    close: async () => { await context.close(); fs.rmSync(folder, { recursive: true, force: true }) }
  }
}

async function main () {
  const [how, ...wanted] = process.argv.slice(2)
  const url = how === 'tcp' ? `mqtt://${process.env.MQTT}` : process.env.MQTT_WEBSOCKET
  const place = how === 'page' ? await inPage(url) : inNode(url)
  const names = wanted.length ? wanted : place.names
  console.log('PLAN', names.join(' '))
  let failed = false
  for (const name of names) {
    let timer
    const late = new Promise((resolve, reject) => {
      timer = setTimeout(() => reject(new Error(`still running after ${TEST_TIMEOUT_MS} ms`)), TEST_TIMEOUT_MS)
    })
    try {
      await Promise.race([place.run(name), late])
      console.log('PASS', name)
    } catch (error) {
      failed = true
      console.log('FAIL', name, String(error.message).replace(/\s+/g, ' ').slice(0, 400))
    } finally {
      clearTimeout(timer)
    }
  }
  await place.close()
  process.exit(failed ? 1 : 0)
}

main()
