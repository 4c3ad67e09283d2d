//! What a device does all its life: connect, serve, wait, connect again; and measure, connected or not.

use alloc::vec::Vec;
use core::cell::RefCell;

use embassy_futures::select::{Either, select};
use embassy_net::Stack;
use embassy_time::{Duration, Ticker, Timer, with_timeout};
use log::{info, warn};
use mbedtls_rs::TlsReference;
use nightjar_esp32_core::{Actuator, Config, Device, Doorbell, Ended, Store, Value, driver};

use crate::clock::CLOCK;
use crate::identity::Identity;
use crate::network::{Buffers, connect};
use crate::time_server;

/// What connecting takes.
#[derive(Clone, Copy)]
pub struct Way<'a> {
    /// The network.
    pub stack: Stack<'a>,
    /// That mbedTLS has its random numbers.
    pub tls: TlsReference<'a>,
    /// Who the device is.
    pub identity: &'a Identity,
    /// Where the broker and the time server are.
    pub config: &'a Config,
}

/// Connects again whenever the connection is over, after the wait that the device says. Returns when the device said good-bye.
///
/// `random` gives any 32 random bits.
pub async fn stay_connected<S: Store, A: Actuator>(
    way: Way<'_>,
    device: &RefCell<Device<S, A>>,
    doorbell: &Doorbell,
    mut random: impl FnMut() -> u32,
) {
    let mut buffers = Buffers::new();
    loop {
        way.stack.wait_config_up().await;
        if serve_once(way, device, doorbell, &mut buffers).await == Some(Ended::Asked) {
            return;
        }
        let wait = device.borrow_mut().retry_after(random());
        let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        info!("next connection in {millis} ms");
        Timer::after_millis(millis).await;
    }
}

/// One connection; why it is over, where there was one.
async fn serve_once<S: Store, A: Actuator>(
    way: Way<'_>,
    device: &RefCell<Device<S, A>>,
    doorbell: &Doorbell,
    buffers: &mut Buffers,
) -> Option<Ended> {
    let Way {
        stack,
        tls,
        identity,
        config,
    } = way;
    // Without the time no certificate can be judged: there is no connection before.
    time_server::synchronize(stack, &config.ntp_server).await;
    let broker = (&*config.broker_host, config.broker_port);
    let mut session = match connect(stack, tls, identity, broker, buffers).await {
        Ok(session) => session,
        Err(why) => {
            warn!("{why}");
            return None;
        }
    };
    let served = driver::serve(device, doorbell, &mut session, &CLOCK);
    match select(served, stack.wait_config_down()).await {
        Either::First(served) => {
            match &served {
                Ok(ended) => info!("the connection is over: {ended:?}"),
                Err(error) => warn!("the connection is over: {error}"),
            }
            // TLS says good-bye, too; who does not listen is not waited for.
            let _ = with_timeout(CLOSE_WITHIN, session.close()).await;
            served.ok()
        }
        Either::Second(()) => {
            warn!("the network is gone");
            device.borrow_mut().close();
            None
        }
    }
}

/// Takes readings for ever; what cannot be kept is said and passed over.
pub async fn measure<S: Store, A: Actuator>(
    device: &RefCell<Device<S, A>>,
    doorbell: &Doorbell,
    every: Duration,
    mut readings: impl FnMut() -> Vec<(&'static str, Value)>,
) {
    let mut ticker = Ticker::every(every);
    loop {
        for (name, value) in readings() {
            let now = nightjar_esp32_core::Clock::now(&CLOCK);
            let recorded = device.borrow_mut().record(now, name, &value);
            if let Err(why) = recorded {
                warn!("{name} was not recorded: {why}");
            }
        }
        doorbell.ring();
        ticker.next().await;
    }
}

const CLOSE_WITHIN: Duration = Duration::from_secs(3);
