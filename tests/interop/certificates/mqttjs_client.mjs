// mqtt.js with a certificate: subscribes, publishes, waits for its own message. Exit code 0: it came.
//
// PROTOCOL PORT VERSION CAFILE [CERTFILE KEYFILE]; mqtts or wss, TLSv1.2 or TLSv1.3.

import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'

// The folder with node_modules is built by setup.sh outside the source tree.
const require = createRequire(process.env.NIGHTJAR_INTEROP_NODE + '/package.json')
const mqtt = require('mqtt')

const [protocol, port, version, authority, certificate, key] = process.argv.slice(2)
const path = protocol === 'wss' ? '/mqtt' : ''
const client = mqtt.connect(`${protocol}://localhost:${port}${path}`, {
  ca: readFileSync(authority),
  cert: certificate && readFileSync(certificate),
  key: key && readFileSync(key),
  minVersion: version,
  maxVersion: version,
  clientId: 'mqttjs',
  protocolVersion: 5,
  reconnectPeriod: 0,
})

const fail = (reason) => {
  console.error(reason)
  process.exit(1)
}
client.on('error', (error) => fail(`not connected: ${error.message}`))
client.on('close', () => fail('closed'))
client.on('connect', async () => {
  await client.subscribeAsync('mqttjs/#', { qos: 1 })
  await client.publishAsync('mqttjs/a', 'hello', { qos: 1 })
})
client.on('message', (_topic, payload) => process.exit(payload.toString() === 'hello' ? 0 : 1))
setTimeout(() => fail('nothing came'), 15000)
