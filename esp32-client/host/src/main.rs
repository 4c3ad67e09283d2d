//! `nightjar-device`: the ESP32 client on a computer, against a real broker.

use std::cell::RefCell;
use std::error::Error;
use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use mbedtls_rs::TlsVersion;
use nightjar_esp32_core::codec::ProtocolVersion;
use nightjar_esp32_core::{
    Clock, Config, Device, Doorbell, FlashRing, Provisioning, RamStore, Store, Value,
};
use nightjar_esp32_host::clock::SystemClock;
use nightjar_esp32_host::connection::{Connector, random};
use nightjar_esp32_host::file_flash::FileFlash;
use nightjar_esp32_host::folder;
use nightjar_esp32_host::pins::Pins;
use nightjar_esp32_host::tls::{self, Identity};
use tokio::signal::unix::{SignalKind, signal};

/// The ESP32 client of Nightjar on this computer: the same code over the same mbedTLS.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// What `nightjar-certs device ID --esp` wrote: certificates/esp/ID
    folder: PathBuf,
    /// Another broker than the one in the folder
    #[arg(long, value_name = "HOST:PORT")]
    broker: Option<String>,
    /// A folder of sensors, files whose first line is read; digitalWrite writes `pin-NUMBER` there [default: readings of the uptime,
    /// pins in the log]
    #[arg(long, value_name = "DIR")]
    pins: Option<PathBuf>,
    /// Where readings wait that are not delivered, so that they survive this program [default: in memory]
    #[arg(long, value_name = "FILE")]
    store: Option<PathBuf>,
    /// Milliseconds from reading to reading
    #[arg(long, value_name = "MS", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    every: u64,
    /// Stop when this many readings were taken and all of them are delivered
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// 5 or 3.1.1, whatever the folder says
    #[arg(long, value_enum)]
    mqtt: Option<Mqtt>,
    /// This version of TLS and no other
    #[arg(long, value_enum)]
    tls: Option<TlsOnly>,
    /// Do not show the certificate, to see how the broker refuses
    #[arg(long)]
    no_certificate: bool,
    /// Make one attempt, and end with 1 if it fails
    #[arg(long)]
    once: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Mqtt {
    #[value(name = "5")]
    V5,
    #[value(name = "3.1.1")]
    V3_1_1,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum TlsOnly {
    #[value(name = "1.2")]
    V1_2,
    #[value(name = "1.3")]
    V1_3,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let options = Options::parse();
    let ran = match &options.store {
        None => run(&options, RamStore::new(10_000, 4 << 20)).await,
        Some(path) => match open(path) {
            Ok(store) => run(&options, store).await,
            Err(error) => Err(error),
        },
    };
    match ran {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(3)
        }
    }
}

fn open(path: &Path) -> Result<FlashRing<FileFlash>, Box<dyn Error>> {
    let flash = FileFlash::open(path, STORE_SECTORS)
        .map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(FlashRing::open(flash)?)
}

async fn run<S: Store>(options: &Options, store: S) -> Result<ExitCode, Box<dyn Error>> {
    let blob = folder::provisioning(&options.folder)?;
    let provisioning = Provisioning::parse(&blob)?;
    let mut config = Config::parse(provisioning.config)?;
    if let Some(version) = options.mqtt {
        config.mqtt_version = match version {
            Mqtt::V5 => ProtocolVersion::V5,
            Mqtt::V3_1_1 => ProtocolVersion::V3_1_1,
        };
    }
    let address = address(options, &config)?;
    let server_name = CString::new(address.0.as_str())?;
    let identity = if options.no_certificate {
        Identity::Withheld
    } else {
        Identity::Shown
    };
    let only = options.tls.map(|version| match version {
        TlsOnly::V1_2 => TlsVersion::Tls1_2,
        TlsOnly::V1_3 => TlsVersion::Tls1_3,
    });
    let mbedtls = tls::start();
    let configuration =
        tls::configuration(&provisioning, &server_name, identity, only).map_err(|error| {
            format!(
                "what was provisioned is of no use: {}",
                tls::explain(error, 0)
            )
        })?;
    let pins = Pins::new(options.pins.clone());
    let device = RefCell::new(Device::new(&config, store, pins, random()));
    let doorbell = Doorbell::new();
    let tell = |line: &str| eprintln!("{line}");
    let connector = Connector {
        tls: &mbedtls,
        address,
        configuration,
        tell: &tell,
    };
    let work = async {
        if !options.once {
            connector.run(&device, &doorbell).await;
            return ExitCode::SUCCESS;
        }
        match connector.once(&device, &doorbell).await {
            Ok(ended) => {
                tell(&format!("connection over: {ended}"));
                ExitCode::from(u8::from(ended != nightjar_esp32_core::Ended::Asked))
            }
            Err(why) => {
                tell(&format!("no connection: {why}"));
                ExitCode::FAILURE
            }
        }
    };
    let readings = take_readings(options, &device, &doorbell);
    let code = tokio::select! {
        code = work => code,
        () = readings => ExitCode::SUCCESS,
    };
    tell(&format!("{:?}", device.borrow().counters()));
    Ok(code)
}

/// Never returns while there is a connection to end: the driver does then.
async fn take_readings<S: Store>(
    options: &Options,
    device: &RefCell<Device<S, Pins>>,
    doorbell: &Doorbell,
) {
    let mut ticks = tokio::time::interval(Duration::from_millis(options.every));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut interrupt = signal(SignalKind::interrupt()).expect("a signal can be awaited");
    let mut terminate = signal(SignalKind::terminate()).expect("a signal can be awaited");
    let mut taken = 0;
    let mut asked = false;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = interrupt.recv() => asked = true,
            _ = terminate.recv() => asked = true,
        }
        let done = options.count.is_some_and(|count| taken >= count);
        if !asked && !done {
            for (metric, value) in readings_now(device) {
                if let Err(error) = device
                    .borrow_mut()
                    .record(SystemClock.now(), &metric, &value)
                {
                    eprintln!("{metric}: {error}");
                }
            }
            taken += 1;
        }
        if asked || (done && device.borrow().counters().pending == 0) {
            if !device.borrow().is_online() {
                return;
            }
            device.borrow_mut().stop(SystemClock.now());
        }
        doorbell.ring();
    }
}

fn readings_now<S: Store>(device: &RefCell<Device<S, Pins>>) -> Vec<(String, Value)> {
    let readings = device.borrow_mut().actuator().readings();
    if !readings.is_empty() {
        return readings;
    }
    let uptime = SystemClock.now().monotonic.as_millis();
    vec![(
        "uptime_ms".to_owned(),
        Value::Whole(i64::try_from(uptime).unwrap_or(i64::MAX)),
    )]
}

fn address(options: &Options, config: &Config) -> Result<(String, u16), String> {
    let Some(broker) = &options.broker else {
        return Ok((config.broker_host.to_string(), config.broker_port));
    };
    let parts = broker
        .rsplit_once(':')
        .and_then(|(host, port)| Some((host, port.parse().ok()?)));
    let (host, port) = parts.ok_or_else(|| format!("--broker {broker}: expected HOST:PORT"))?;
    Ok((host.trim_matches(['[', ']']).to_owned(), port))
}

/// A quarter of a MiB.
const STORE_SECTORS: usize = 64;
