/* A device of Nightjar on ESP-IDF 6, with the component espressif/mqtt: mutual TLS, status with a will, readings, one command.
 *
 * NOT COMPILED HERE, and not tried on a chip: see ../../README.md. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "cJSON.h"
#include "driver/gpio.h"
#include "esp_event.h"
#include "esp_log.h"
#include "esp_netif.h"
#include "esp_netif_sntp.h"
#include "esp_system.h"
#include "esp_wifi.h"
#include "freertos/FreeRTOS.h"
#include "freertos/event_groups.h"
#include "freertos/task.h"
#include "mqtt_client.h"
#include "nvs_flash.h"

/* nightjar-certs device ID --esp; contains the private key. */
#include "nightjar_device.h"

static const char *TAG = "nightjar";
static const char *STATUS = "devices/" NIGHTJAR_DEVICE_ID "/status";
static const char *COMMANDS = "consumer/request/" NIGHTJAR_DEVICE_ID;
static EventGroupHandle_t network;
static const EventBits_t HAS_ADDRESS = BIT0;

static void on_network(void *argument, esp_event_base_t base, int32_t id, void *data)
{
    if (base == WIFI_EVENT && (id == WIFI_EVENT_STA_START || id == WIFI_EVENT_STA_DISCONNECTED)) {
        xEventGroupClearBits(network, HAS_ADDRESS);
        esp_wifi_connect();
    } else if (base == IP_EVENT && id == IP_EVENT_STA_GOT_IP) {
        xEventGroupSetBits(network, HAS_ADDRESS);
    }
}

static void join_wifi(void)
{
    network = xEventGroupCreate();
    esp_netif_create_default_wifi_sta();
    wifi_init_config_t defaults = WIFI_INIT_CONFIG_DEFAULT();
    ESP_ERROR_CHECK(esp_wifi_init(&defaults));
    ESP_ERROR_CHECK(esp_event_handler_register(WIFI_EVENT, ESP_EVENT_ANY_ID, on_network, NULL));
    ESP_ERROR_CHECK(esp_event_handler_register(IP_EVENT, IP_EVENT_STA_GOT_IP, on_network, NULL));
    wifi_config_t wifi = {0};
    strlcpy((char *)wifi.sta.ssid, CONFIG_NIGHTJAR_WIFI_SSID, sizeof wifi.sta.ssid);
    strlcpy((char *)wifi.sta.password, CONFIG_NIGHTJAR_WIFI_PASSWORD, sizeof wifi.sta.password);
    ESP_ERROR_CHECK(esp_wifi_set_mode(WIFI_MODE_STA));
    ESP_ERROR_CHECK(esp_wifi_set_config(WIFI_IF_STA, &wifi));
    ESP_ERROR_CHECK(esp_wifi_start());
    xEventGroupWaitBits(network, HAS_ADDRESS, pdFALSE, pdTRUE, portMAX_DELAY);
}

/* Returns when the time is known: before that every certificate would be taken for expired. */
static void ask_for_the_time(void)
{
    esp_sntp_config_t config = ESP_NETIF_SNTP_DEFAULT_CONFIG("pool.ntp.org");
    ESP_ERROR_CHECK(esp_netif_sntp_init(&config));
    while (esp_netif_sntp_sync_wait(pdMS_TO_TICKS(10000)) != ESP_OK) {
        ESP_LOGW(TAG, "nobody tells the time");
    }
}

/* {"command":"digitalWrite","data":{"pinNumber":5,"pinValue":true}}; of all other pins it refuses to. */
static void obey(const char *payload, int length)
{
    cJSON *message = cJSON_ParseWithLength(payload, length);
    const cJSON *command = cJSON_GetObjectItemCaseSensitive(message, "command");
    const cJSON *data = cJSON_GetObjectItemCaseSensitive(message, "data");
    const cJSON *pin = cJSON_GetObjectItemCaseSensitive(data, "pinNumber");
    const cJSON *value = cJSON_GetObjectItemCaseSensitive(data, "pinValue");
    if (cJSON_IsString(command) && strcmp(command->valuestring, "digitalWrite") == 0 && cJSON_IsNumber(pin) &&
        pin->valueint == CONFIG_NIGHTJAR_PIN && cJSON_IsBool(value)) {
        gpio_set_level(CONFIG_NIGHTJAR_PIN, cJSON_IsTrue(value));
    } else {
        ESP_LOGW(TAG, "a command that this device does not know");
    }
    cJSON_Delete(message);
}

static void on_mqtt(void *argument, esp_event_base_t base, int32_t id, void *data)
{
    esp_mqtt_event_handle_t event = data;
    switch ((esp_mqtt_event_id_t)id) {
    case MQTT_EVENT_CONNECTED:
        esp_mqtt_client_subscribe(event->client, COMMANDS, 1);
        esp_mqtt_client_publish(event->client, STATUS, "{\"state\":\"online\"}", 0, 1, 1);
        break;
    case MQTT_EVENT_DATA:
        /* A message that is longer than the buffer comes in parts; a command never is. */
        if (event->data_len == event->total_data_len) {
            obey(event->data, event->data_len);
        }
        break;
    case MQTT_EVENT_ERROR:
        ESP_LOGE(TAG, "TLS: 0x%x, the broker's certificate: flags 0x%x", event->error_handle->esp_tls_last_esp_err,
                 event->error_handle->esp_tls_cert_verify_flags);
        break;
    default:
        break;
    }
}

void app_main(void)
{
    ESP_ERROR_CHECK(nvs_flash_init());
    ESP_ERROR_CHECK(esp_netif_init());
    ESP_ERROR_CHECK(esp_event_loop_create_default());
    gpio_reset_pin(CONFIG_NIGHTJAR_PIN);
    gpio_set_direction(CONFIG_NIGHTJAR_PIN, GPIO_MODE_OUTPUT);
    join_wifi();
    ask_for_the_time();

    const esp_mqtt_client_config_t config = {
        .broker.address.hostname = NIGHTJAR_BROKER_HOST,
        .broker.address.port = NIGHTJAR_BROKER_PORT,
        .broker.address.transport = MQTT_TRANSPORT_OVER_SSL,
        .broker.verification.certificate = NIGHTJAR_CA,
        .credentials.client_id = NIGHTJAR_DEVICE_ID,
        .credentials.authentication.certificate = NIGHTJAR_CERTIFICATE,
        .credentials.authentication.key = NIGHTJAR_KEY,
        .session.disable_clean_session = true,
        .session.last_will.topic = STATUS,
        .session.last_will.msg = "{\"state\":\"offline\"}",
        .session.last_will.qos = 1,
        .session.last_will.retain = 1,
    };
    esp_mqtt_client_handle_t client = esp_mqtt_client_init(&config);
    ESP_ERROR_CHECK(esp_mqtt_client_register_event(client, ESP_EVENT_ANY_ID, on_mqtt, NULL));
    ESP_ERROR_CHECK(esp_mqtt_client_start(client));

    for (;;) {
        char reading[96];
        snprintf(reading, sizeof reading, "{\"metric\":\"heap_free\",\"value\":%lu,\"ts\":%lld}",
                 (unsigned long)esp_get_free_heap_size(), (long long)time(NULL));
        /* Queued where there is no connection, as long as there is memory and for 30 seconds. */
        esp_mqtt_client_enqueue(client, "devices/" NIGHTJAR_DEVICE_ID "/telemetry/heap_free", reading, 0, 1, 0, true);
        vTaskDelay(pdMS_TO_TICKS(30000));
    }
}
