//! One connection after the other: wait, connect, shake hands, serve, and again, as the chip does it.

use std::cell::RefCell;
use std::time::Duration;

use embedded_io_adapters::tokio_1::FromTokio;
use mbedtls_rs::{Session, SessionConfig, Tls, TlsVersion};
use nightjar_esp32_core::{Actuator, Device, Doorbell, Ended, Store, driver};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::clock::SystemClock;
use crate::tls;

/// How a device connects.
pub struct Connector<'a> {
    /// mbedTLS.
    pub tls: &'a Tls<'static>,
    /// Host and port.
    pub address: (String, u16),
    /// Trust and identity.
    pub configuration: SessionConfig<'a>,
    /// Where what happens is told.
    pub tell: &'a dyn Fn(&str),
}

impl Connector<'_> {
    /// Serves the device until it is stopped, over as many connections as that takes.
    pub async fn run<S: Store, A: Actuator>(
        &self,
        device: &RefCell<Device<S, A>>,
        doorbell: &Doorbell,
    ) {
        loop {
            match self.once(device, doorbell).await {
                Ok(Ended::Asked) => return,
                Ok(ended) => (self.tell)(&format!("connection over: {ended}")),
                Err(why) => (self.tell)(&format!("no connection: {why}")),
            }
            let wait = device.borrow_mut().retry_after(random());
            (self.tell)(&format!("next attempt in {} ms", wait.as_millis()));
            tokio::time::sleep(wait).await;
        }
    }

    /// One connection, from its beginning to its end.
    ///
    /// # Errors
    /// It did not come about, or it broke.
    pub async fn once<S: Store, A: Actuator>(
        &self,
        device: &RefCell<Device<S, A>>,
        doorbell: &Doorbell,
    ) -> Result<Ended, String> {
        let (host, port) = &self.address;
        let stream = timeout(CONNECT_WITHIN, TcpStream::connect((host.as_str(), *port)))
            .await
            .map_err(|_| "nobody answers".to_owned())?
            .map_err(|error| error.to_string())?;
        let _ = stream.set_nodelay(true);
        let mut session = Session::new(
            self.tls.reference(),
            FromTokio::new(stream),
            &self.configuration,
        )
        .map_err(|error| tls::explain(error, 0))?;
        let shaken = timeout(HANDSHAKE_WITHIN, session.connect())
            .await
            .map_err(|_| "the TLS handshake takes too long".to_owned())?;
        shaken.map_err(|error| tls::explain(error, session.tls_verification_details()))?;
        let version = match session.tls_version() {
            Some(TlsVersion::Tls1_2) => "1.2",
            Some(TlsVersion::Tls1_3) => "1.3",
            None => "?",
        };
        (self.tell)(&format!("connected to {host}:{port} with TLS {version}"));
        let served = driver::serve(device, doorbell, &mut session, &SystemClock).await;
        // The broker may be gone.
        let _ = timeout(CLOSE_WITHIN, session.close()).await;
        served.map_err(|error| tls::explain(error, 0))
    }
}

/// 32 random bits of the system.
#[must_use]
pub fn random() -> u32 {
    getrandom::u32().unwrap_or_default()
}

const CONNECT_WITHIN: Duration = Duration::from_secs(10);
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(20);
const CLOSE_WITHIN: Duration = Duration::from_secs(2);
