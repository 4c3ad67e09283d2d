//! Wi-Fi: joined, and joined again whenever it is lost.

use embassy_time::{Duration, Timer};
use esp_hal::peripherals::WIFI;
use esp_radio::wifi::sta::StationConfig;
use esp_radio::wifi::{
    AuthenticationMethodConfig, Config, ControllerConfig, Password, Ssid, WifiController,
};
use log::{info, warn};
use nightjar_device::core::Wifi;

/// The radio, set up for a network.
///
/// # Errors
///
/// In words: why not.
pub(crate) fn start(
    wifi: WIFI<'static>,
    network: &Wifi<'_>,
) -> Result<WifiController<'static>, &'static str> {
    let ssid = Ssid::try_from(network.ssid).map_err(|_| "the name of the Wi-Fi is too long")?;
    let authentication = if network.password.is_empty() {
        AuthenticationMethodConfig::Open
    } else {
        let password = Password::try_from(network.password)
            .map_err(|_| "the password of the Wi-Fi is too long")?;
        AuthenticationMethodConfig::Wpa2Personal(password)
    };
    let station = StationConfig::default()
        .with_ssid(ssid)
        .with_authentication(authentication);
    let config = ControllerConfig::default().with_initial_config(Config::Station(station));
    WifiController::new(wifi, config).map_err(|_| "the radio does not start")
}

/// Stays in the network.
pub(crate) async fn stay(mut controller: WifiController<'static>) -> ! {
    loop {
        match controller.connect_async().await {
            Ok(_) => {
                info!("Wi-Fi: joined");
                let why = controller.wait_for_disconnect_async().await;
                warn!("Wi-Fi: lost, {:?}", why.map(|info| info.reason));
            }
            Err(error) => warn!("Wi-Fi: {error:?}"),
        }
        Timer::after(AGAIN_AFTER).await;
    }
}

const AGAIN_AFTER: Duration = Duration::from_secs(5);
