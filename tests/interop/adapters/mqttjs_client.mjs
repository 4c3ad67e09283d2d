// Adapter: mqtt.js. The conversation with the runner is described in ../driver.py.

import readline from 'node:readline'
import { createRequire } from 'node:module'

// The folder with node_modules is built by setup.sh outside the source tree.
const require = createRequire(process.env.NIGHTJAR_INTEROP_NODE + '/package.json')
const mqtt = require('mqtt')

const OUR_NAMES = {
  contentType: 'content_type',
  messageExpiryInterval: 'message_expiry_interval',
  responseTopic: 'response_topic',
  topicAlias: 'topic_alias',
  willDelayInterval: 'will_delay_interval',
}
const CONNECT_NAMES = {
  session_expiry_interval: 'sessionExpiryInterval',
  receive_maximum: 'receiveMaximum',
  maximum_packet_size: 'maximumPacketSize',
  topic_alias_maximum: 'topicAliasMaximum',
}
const clients = new Map()

const say = (said) => process.stdout.write(JSON.stringify(said) + '\n')

// mqtt.js keeps user properties in an object: the order between different names is that of first use.
const toUserProperties = (pairs) => {
  const properties = {}
  for (const [name, value] of pairs) {
    if (properties[name] === undefined) properties[name] = value
    else properties[name] = [].concat(properties[name], value)
  }
  return properties
}

const fromUserProperties = (properties) =>
  Object.entries(properties).flatMap(([name, values]) => [].concat(values).map((value) => [name, value]))

const theirProperties = (given) => {
  const properties = {}
  for (const [theirs, ours] of Object.entries(OUR_NAMES)) {
    if (given[ours] !== undefined) properties[theirs] = given[ours]
  }
  if (given.payload_format_indicator !== undefined) {
    properties.payloadFormatIndicator = given.payload_format_indicator === 1
  }
  if (given.correlation_data !== undefined) properties.correlationData = Buffer.from(given.correlation_data, 'hex')
  if (given.user_properties !== undefined) properties.userProperties = toUserProperties(given.user_properties)
  return properties
}

const told = (theirs = {}) => {
  const properties = {}
  for (const [name, ours] of Object.entries(OUR_NAMES)) {
    if (theirs[name] !== undefined) properties[ours] = theirs[name]
  }
  if (theirs.payloadFormatIndicator !== undefined) {
    properties.payload_format_indicator = theirs.payloadFormatIndicator ? 1 : 0
  }
  if (theirs.correlationData !== undefined) properties.correlation_data = theirs.correlationData.toString('hex')
  if (theirs.userProperties !== undefined) properties.user_properties = fromUserProperties(theirs.userProperties)
  if (theirs.subscriptionIdentifier !== undefined) {
    properties.subscription_identifiers = [].concat(theirs.subscriptionIdentifier)
  }
  return properties
}

class Handle {
  constructor(name, request) {
    this.name = name
    this.version = request.protocol_version
    const options = {
      host: request.host,
      port: request.port,
      protocol: request.over_web_socket ? 'ws' : 'mqtt',
      // Any will do.
      path: request.over_web_socket ? '/mqtt' : undefined,
      protocolVersion: this.version,
      protocolId: this.version === 3 ? 'MQIsdp' : 'MQTT',
      clientId: request.client_id,
      clean: request.clean_start ?? true,
      keepalive: request.keep_alive ?? 60,
      reconnectPeriod: 0,
      resubscribe: false,
    }
    if (request.username !== undefined) {
      options.username = request.username
      options.password = request.password
    }
    if (request.will) {
      options.will = {
        topic: request.will.topic,
        payload: Buffer.from(request.will.payload, 'hex'),
        qos: request.will.qos,
        retain: request.will.retain,
      }
      if (this.version === 5) options.will.properties = theirProperties(request.will.properties)
    }
    if (this.version === 5) {
      options.properties = {}
      for (const [ours, theirs] of Object.entries(CONNECT_NAMES)) {
        if (request[ours] !== undefined && request[ours] !== null) options.properties[theirs] = request[ours]
      }
      if (request.user_properties) options.properties.userProperties = toUserProperties(request.user_properties)
    }
    this.reasonCode = null
    this.lastError = null
    this.client = mqtt.connect(options)
    this.client.on('message', (topic, payload, packet) =>
      say({
        event: 'message',
        client: name,
        topic,
        payload: payload.toString('hex'),
        qos: packet.qos,
        retain: packet.retain,
        dup: packet.dup,
        properties: this.version === 5 ? told(packet.properties) : {},
      }),
    )
    this.client.on('disconnect', (packet) => {
      this.reasonCode = packet.reasonCode ?? 0
    })
    this.client.on('error', (error) => {
      this.lastError = error
    })
    this.client.on('close', () =>
      say({ event: 'closed', client: name, reason_code: this.reasonCode, detail: String(this.lastError ?? 'closed') }),
    )
  }

  connect() {
    return new Promise((resolve, reject) => {
      this.client.once('connect', (connack) => {
        this.receiveMaximum = connack.properties?.receiveMaximum ?? 65535
        resolve({
          session_present: connack.sessionPresent,
          reason_code: connack.reasonCode ?? connack.returnCode,
          properties: {
            assigned_client_id: connack.properties?.assignedClientIdentifier ?? null,
            maximum_packet_size: connack.properties?.maximumPacketSize ?? null,
          },
        })
      })
      this.client.once('close', () => reject(this.lastError ?? new Error('closed before CONNACK')))
    })
  }

  // mqtt.js keeps a callback for ever when the connection ends before the answer: the end of the connection answers too.
  untilClosed(promise) {
    const closed = new Promise((_, reject) => {
      this.client.once('close', () => reject(this.lastError ?? new Error('connection ended')))
    })
    return Promise.race([promise, closed])
  }

  async subscribe(request) {
    const filters = {}
    for (const filter of request.filters) {
      filters[filter.topic_filter] = { qos: filter.qos }
      if (this.version === 5) {
        Object.assign(filters[filter.topic_filter], {
          nl: filter.no_local ?? false,
          rap: filter.retain_as_published ?? false,
          rh: filter.retain_handling ?? 0,
        })
      }
    }
    const options = {}
    if (request.subscription_identifier !== null) {
      options.properties = { subscriptionIdentifier: request.subscription_identifier }
    }
    const granted = await this.untilClosed(this.client.subscribeAsync(filters, options))
    return { reason_codes: granted.map((subscription) => subscription.qos) }
  }

  // mqtt.js does not keep to the Receive Maximum of the broker , so its user has to.
  async publish_many(request) {
    const unacknowledged = new Set()
    for (const message of request.messages) {
      const options = { qos: message.qos, retain: message.retain }
      if (this.version === 5) options.properties = theirProperties(message.properties)
      while (unacknowledged.size >= this.receiveMaximum) await this.untilClosed(Promise.race(unacknowledged))
      const publish = this.client.publishAsync(message.topic, Buffer.from(message.payload, 'hex'), options)
      const done = publish.finally(() => unacknowledged.delete(done))
      unacknowledged.add(done)
    }
    await this.untilClosed(Promise.all(unacknowledged))
  }

  async unsubscribe(request) {
    await this.untilClosed(this.client.unsubscribeAsync(request.filters))
  }

  async disconnect(request) {
    await this.client.endAsync(false, request.reason_code ? { reasonCode: request.reason_code } : {})
  }
}

const handle = async (request) => {
  if (request.op === 'hello') return {}
  if (request.op === 'connect') {
    const created = new Handle(request.client, request)
    clients.set(request.client, created)
    return created.connect()
  }
  return clients.get(request.client)[request.op](request)
}

readline.createInterface({ input: process.stdin, crlfDelay: Infinity }).on('line', (line) => {
  const request = JSON.parse(line)
  handle(request).then(
    (ok) => say({ id: request.id, ok: ok ?? {} }),
    (error) => say({ id: request.id, error: String(error?.message ?? error) }),
  )
}).on('close', () => process.exit(0))
process.on('unhandledRejection', () => {})
