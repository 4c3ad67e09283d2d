//! The client on an ESP32.
//!
//! In: the partition `nightjar` (provisioning.bin) and the partition `readings` (the offline buffer). Out: readings of the chip, and what
//! commands do to its pins. Everything between is `nightjar-device` and core, which run in `../qemu`, too; here is what a chip has instead
//! of that machine: radio, flash, pins, random numbers, accelerators.
//!
//! A chip without a valid provisioning says so on its serial line, and does nothing else.
#![no_std]
#![no_main]

extern crate alloc;

mod flash;
mod pins;
mod radio;

use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;

use embassy_executor::Spawner;
use embassy_futures::join::join4;
use embassy_net::{Config as NetworkConfig, StackResources};
use embassy_time::{Duration, Timer};
use esp_backtrace as _;
use esp_hal::clock::CpuClock;
use esp_hal::ram;
use esp_hal::rng::Trng;
use esp_hal::timer::timg::TimerGroup;
use esp_radio::wifi::Interface;
use log::{LevelFilter, error, info};
use mbedtls_rs::Tls;
use mbedtls_rs::sys::hook::backend::esp::EspAccel;
use mbedtls_rs::sys::hook::timer::hook_timer;
use mbedtls_rs::sys::hook::wall_clock::hook_wall_clock;
use nightjar_device::clock::CLOCK;
use nightjar_device::core::{Config, Device, Doorbell, FlashRing, Provisioning, Value};
use nightjar_device::identity::Identity;
use nightjar_device::work::{Way, measure, stay_connected};
use static_cell::StaticCell;

use crate::pins::pins;

// What the bootloader looks for.
esp_bootloader_esp_idf::esp_app_desc!();

#[esp_rtos::main]
async fn main(_spawner: Spawner) {
    esp_println::logger::init_logger(LevelFilter::Info);
    esp_alloc::heap_allocator!(#[ram(reclaimed)] size: RECLAIMED_BYTES);
    esp_alloc::heap_allocator!(size: HEAP_BYTES);
    let chip = esp_hal::init(esp_hal::Config::default().with_cpu_clock(CpuClock::max()));
    let timers = TimerGroup::new(chip.TIMG0);
    esp_rtos::start(timers.timer0, chip.FROM_CPU_INTR0);
    // SAFETY: nothing has used mbedTLS before, and the clock is there for ever.
    unsafe {
        hook_timer(Some(&CLOCK));
        hook_wall_clock(Some(&CLOCK));
    }

    let (blob, readings) = match flash::open(chip.FLASH) {
        Ok(found) => found,
        Err(why) => give_up(why).await,
    };
    let provisioning = match Provisioning::parse(&blob) {
        Ok(provisioning) => provisioning,
        Err(why) => give_up(why).await,
    };
    let config = match Config::parse(provisioning.config) {
        Ok(config) => config,
        Err(why) => give_up(why).await,
    };
    let Some(wifi) = provisioning.wifi else {
        give_up("the provisioning names no Wi-Fi: nightjar-certs device --esp --wifi SSID").await
    };
    let store = match FlashRing::open(readings) {
        Ok(store) => store,
        Err(why) => give_up(why).await,
    };

    let controller = match radio::start(chip.WIFI, &wifi) {
        Ok(controller) => controller,
        Err(why) => give_up(why).await,
    };
    // The radio is what random numbers are made of, so they come after it.
    static RANDOM: StaticCell<Trng> = StaticCell::new();
    let random = RANDOM.init(Trng::try_new().expect("the radio is on"));
    let seed = u64::from(random.random()) << 32 | u64::from(random.random());
    let dice = random.clone();
    let tls = Tls::new(random).expect("there is no other");
    let mut accelerators = EspAccel::new();
    #[cfg(not(feature = "esp32"))]
    {
        accelerators = accelerators.with_sha(chip.SHA);
    }
    #[cfg(not(feature = "esp32c2"))]
    {
        accelerators = accelerators.with_rsa(chip.RSA).with_aes(chip.AES);
    }
    #[cfg(any(feature = "esp32c2", feature = "esp32c6"))]
    {
        accelerators = accelerators.with_ecc(chip.ECC);
    }
    let served = accelerators.start();
    // SAFETY: nothing of mbedTLS has been used yet, and neither is dropped: `main` does not end.
    let _hooked = unsafe { served.hook() };
    let identity = match Identity::new(&provisioning, &config.broker_host) {
        Ok(identity) => identity,
        Err(why) => give_up(why).await,
    };

    static RESOURCES: StaticCell<StackResources<4>> = StaticCell::new();
    let (stack, mut network) = embassy_net::new(
        Interface::station(),
        NetworkConfig::dhcpv4(Default::default()),
        RESOURCES.init(StackResources::new()),
        seed,
    );
    // Low at first; strapping pins and those of flash, USB and the serial line are not among them.
    #[cfg(any(feature = "esp32c2", feature = "esp32c3"))]
    let pins = pins!(chip: 4 GPIO4, 5 GPIO5, 6 GPIO6, 7 GPIO7, 10 GPIO10);
    #[cfg(feature = "esp32c6")]
    let pins = pins!(chip: 18 GPIO18, 19 GPIO19, 20 GPIO20, 21 GPIO21, 22 GPIO22, 23 GPIO23);
    #[cfg(any(feature = "esp32s2", feature = "esp32s3"))]
    let pins = pins!(chip: 4 GPIO4, 5 GPIO5, 6 GPIO6, 7 GPIO7);
    #[cfg(feature = "esp32")]
    let pins = pins!(chip: 18 GPIO18, 19 GPIO19, 21 GPIO21, 22 GPIO22, 23 GPIO23);
    let device = RefCell::new(Device::new(&config, store, pins, dice.random()));
    let doorbell = Doorbell::new();
    let way = Way {
        stack,
        tls: tls.reference(),
        identity: &identity,
        config: &config,
    };
    info!("{} for {}", &*config.device_id, config.broker_host);
    let connected = stay_connected(way, &device, &doorbell, || dice.random());
    let measured = measure(&device, &doorbell, READING_EVERY, readings_of);
    join4(radio::stay(controller), network.run(), connected, measured).await;
}

/// What every chip knows of itself.
fn readings_of() -> Vec<(&'static str, Value)> {
    let seconds = i64::try_from(CLOCK.since_power_on().as_secs()).unwrap_or(i64::MAX);
    let free = i64::try_from(esp_alloc::HEAP.free()).unwrap_or(i64::MAX);
    vec![
        ("uptime", Value::Whole(seconds)),
        ("heap_free", Value::Whole(free)),
    ]
}

/// After a panic, which is also what memory that has run out ends in: begins anew, as after a loss of power. The backtrace was printed.
// SAFETY: the name is called by esp-backtrace, with this signature, and by nothing else.
#[unsafe(no_mangle)]
fn custom_halt() -> ! {
    esp_hal::system::software_reset()
}

/// Says why, again and again, for whoever comes with a cable.
async fn give_up(why: impl core::fmt::Display) -> ! {
    loop {
        error!("{why}");
        Timer::after(Duration::from_secs(10)).await;
    }
}

const READING_EVERY: Duration = Duration::from_secs(30);
/// What the bootloader has left. What TLS, Wi-Fi and the session take together is below 200 KiB; the C2 has less, and the S2, too: there the
/// radio's buffers decide how much that is.
#[cfg(not(any(feature = "esp32c2", feature = "esp32s2")))]
const RECLAIMED_BYTES: usize = 64 * 1024;
#[cfg(not(any(feature = "esp32c2", feature = "esp32s2")))]
const HEAP_BYTES: usize = 144 * 1024;
#[cfg(any(feature = "esp32c2", feature = "esp32s2"))]
const RECLAIMED_BYTES: usize = 32 * 1024;
#[cfg(any(feature = "esp32c2", feature = "esp32s2"))]
const HEAP_BYTES: usize = 96 * 1024;
