// A device of Nightjar on arduino-esp32 3 with PubSubClient 2.8: mutual TLS, status with a will, readings, one command.
//
// NOT COMPILED HERE, and not tried on a chip: see ../../README.md. PubSubClient publishes with QoS 0 only and drops what is larger than its
// buffer without a word, hence setBufferSize.
#include <PubSubClient.h>
#include <WiFi.h>
#include <WiFiClientSecure.h>
#include <time.h>

// nightjar-certs device ID --esp; contains the private key. Copy it beside this file.
#include "nightjar_device.h"

const char *WIFI_SSID = "...";
const char *WIFI_PASSWORD = "...";
const int PIN = 5;
const char *STATUS = "devices/" NIGHTJAR_DEVICE_ID "/status";

WiFiClientSecure tls;
PubSubClient mqtt(tls);

void obey(char *topic, byte *payload, unsigned int length) {
  String text;
  text.concat((const char *)payload, length);
  // Enough for one command of one pin; more wants a JSON library.
  if (text.indexOf("\"digitalWrite\"") < 0 || text.indexOf("\"pinNumber\":" + String(PIN)) < 0) return;
  digitalWrite(PIN, text.indexOf("\"pinValue\":true") >= 0 ? HIGH : LOW);
}

void connectAgain() {
  while (WiFi.status() != WL_CONNECTED) delay(500);
  // Before the time is known every certificate would be taken for expired.
  while (time(nullptr) < 1767225600) delay(500);
  while (!mqtt.connect(NIGHTJAR_DEVICE_ID, nullptr, nullptr, STATUS, 1, true, "{\"state\":\"offline\"}", false)) {
    Serial.printf("no connection: %d\n", mqtt.state());
    delay(5000 + random(5000));
  }
  mqtt.subscribe("consumer/request/" NIGHTJAR_DEVICE_ID, 1);
  mqtt.publish(STATUS, "{\"state\":\"online\"}", true);
}

void setup() {
  Serial.begin(115200);
  pinMode(PIN, OUTPUT);
  WiFi.begin(WIFI_SSID, WIFI_PASSWORD);
  configTime(0, 0, "pool.ntp.org");
  tls.setCACert(NIGHTJAR_CA);
  tls.setCertificate(NIGHTJAR_CERTIFICATE);
  tls.setPrivateKey(NIGHTJAR_KEY);
  mqtt.setServer(NIGHTJAR_BROKER_HOST, NIGHTJAR_BROKER_PORT);
  mqtt.setBufferSize(1024);
  mqtt.setCallback(obey);
}

void loop() {
  static unsigned long last = 0;
  if (!mqtt.connected()) connectAgain();
  mqtt.loop();
  if (last == 0 || millis() - last >= 30000) {
    last = millis();
    char reading[96];
    snprintf(reading, sizeof reading, "{\"metric\":\"heap_free\",\"value\":%u,\"ts\":%lld}", (unsigned)ESP.getFreeHeap(),
             (long long)time(nullptr));
    mqtt.publish("devices/" NIGHTJAR_DEVICE_ID "/telemetry/heap_free", reading);
  }
}
