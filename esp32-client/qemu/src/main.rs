//! The client of the chips on `qemu-system-riscv32 -M virt`: the same instruction set as an ESP32-C3, the same `device`, the same
//! mbedTLS; instead of Wi-Fi a virtio network, instead of flash memory.
//!
//! In: `provisioning.bin` and a word of flags, which qemu puts into memory before the start. Out: a device that measures and obeys;
//! `digitalWrite` is a line of the log, and `stop` ends the machine. qemu exits with 0 only then.
#![no_std]
#![no_main]

extern crate alloc;

mod devices;
mod machine;

use alloc::boxed::Box;
use alloc::vec;
use core::cell::RefCell;
use core::mem::MaybeUninit;
use core::pin::pin;
use core::slice;
use core::task::{Context, Poll, Waker};

use embassy_futures::join::join;
use embassy_futures::select::select;
use embassy_net::{Config as NetworkConfig, StackResources};
use embassy_time::{Duration, Timer};
use embedded_alloc::LlffHeap;
use log::info;
use mbedtls_rs::sys::hook::timer::hook_timer;
use mbedtls_rs::sys::hook::wall_clock::hook_wall_clock;
use mbedtls_rs::{Tls, TlsVersion};
use nightjar_device::clock::CLOCK;
use nightjar_device::core::store::flash::memory::MemoryFlash;
use nightjar_device::core::{
    Actuator, Clock, Config, Device, Doorbell, FlashRing, Provisioning, Refusal, Value,
};
use nightjar_device::identity::Identity;
use nightjar_device::work::{Way, measure, stay_connected};
use rand_core::Rng;
// Memory for C, and critical sections.
use riscv as _;
use tinyrlibc as _;

use crate::machine::{Serial, finish, rest};

// SAFETY: the name is used where the machine starts, and by nothing else.
#[unsafe(no_mangle)]
extern "C" fn main() -> ! {
    static mut MEMORY: [MaybeUninit<u8>; HEAP_BYTES] = [MaybeUninit::uninit(); HEAP_BYTES];
    // SAFETY: `main` is called once, and nothing else names this memory.
    unsafe { HEAP.init(&raw mut MEMORY as usize, HEAP_BYTES) };
    Serial::log_here();
    // SAFETY: nothing has used mbedTLS before, and the clock is there for ever.
    unsafe {
        hook_timer(Some(&CLOCK));
        hook_wall_clock(Some(&CLOCK));
    }
    // SAFETY: qemu loaded the blob and the word there, behind all that the linker placed, and nothing writes to them.
    let (blob, flags) = unsafe {
        (
            slice::from_raw_parts(PROVISIONING as *const u8, PROVISIONING_BYTES),
            (FLAGS as *const u32).read_volatile(),
        )
    };
    let provisioning = Provisioning::parse(blob).expect("qemu was given provisioning.bin");
    let config = Config::parse(provisioning.config).expect("it says what a device needs");
    let mut identity = Identity::new(&provisioning, &config.broker_host).expect("DER");
    if flags & FLAG_TLS_1_2 != 0 {
        identity = identity.at_most(TlsVersion::Tls1_2);
    }
    if flags & FLAG_ANONYMOUS != 0 {
        identity = identity.anonymous();
    }
    run(&config, &identity);
    info!("heap: {} bytes at most", heap_most());
    finish(true)
}

/// Returns when somebody said stop.
fn run(config: &Config, identity: &Identity) {
    let (network, random) = devices::find();
    let random = Box::leak(Box::new(random));
    let seed = random.next_u64();
    let mut jitter = random.next_u32();
    let tls = Tls::new(random).expect("there is no other");
    let mut resources = StackResources::<4>::new();
    let (stack, mut runner) = embassy_net::new(
        network,
        NetworkConfig::dhcpv4(Default::default()),
        &mut resources,
        seed,
    );
    let store = FlashRing::open(MemoryFlash::<4096>::new(8)).expect("erased flash");
    let stopped = RefCell::new(false);
    let device = RefCell::new(Device::new(
        config,
        store,
        Pins { stopped: &stopped },
        jitter,
    ));
    let doorbell = Doorbell::new();
    let way = Way {
        stack,
        tls: tls.reference(),
        identity,
        config,
    };
    let connected = stay_connected(way, &device, &doorbell, || {
        jitter = jitter.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        jitter
    });
    let measured = measure(&device, &doorbell, Duration::from_millis(500), || {
        let seconds = i64::try_from(CLOCK.since_power_on().as_secs()).unwrap_or(i64::MAX);
        vec![("uptime", Value::Whole(seconds))]
    });
    let stopping = async {
        while !*stopped.borrow() {
            Timer::after_millis(20).await;
        }
        device.borrow_mut().stop(CLOCK.now());
        doorbell.ring();
        core::future::pending::<()>().await;
    };
    let living = select(connected, join(measured, stopping));
    block_on(select(runner.run(), living));
    info!("{:?}", device.borrow().counters());
}

/// What a chip has pins for.
#[derive(Debug)]
struct Pins<'a> {
    stopped: &'a RefCell<bool>,
}

impl Actuator for Pins<'_> {
    fn digital_write(&mut self, pin: u8, level: bool) -> Result<(), Refusal> {
        if pin != THE_PIN {
            return Err(Refusal("no such pin"));
        }
        info!("pin {pin} is {}", if level { "high" } else { "low" });
        Ok(())
    }

    fn other(&mut self, command: &str, _: &serde_json::Value) -> Result<(), Refusal> {
        if command != "stop" {
            return Err(Refusal("unknown command"));
        }
        self.stopped.replace(true);
        Ok(())
    }
}

/// Polls until it is done, with a rest between.
fn block_on(task: impl Future) {
    let mut task = pin!(task);
    let mut context = Context::from_waker(Waker::noop());
    while let Poll::Pending = task.as_mut().poll(&mut context) {
        heap_most();
        rest();
    }
}

/// The most of the heap that was in use whenever this was called.
fn heap_most() -> usize {
    static MOST: critical_section::Mutex<core::cell::Cell<usize>> =
        critical_section::Mutex::new(core::cell::Cell::new(0));
    critical_section::with(|cs| {
        let most = MOST.borrow(cs);
        most.set(most.get().max(HEAP.used()));
        most.get()
    })
}

#[global_allocator]
static HEAP: LlffHeap = LlffHeap::empty();

/// What an ESP32-C3 can spare beside its radio.
const HEAP_BYTES: usize = 192 * 1024;
const PROVISIONING: usize = 0x8040_0000;
const PROVISIONING_BYTES: usize = 16 * 1024;
const FLAGS: usize = 0x8040_4000;
const FLAG_TLS_1_2: u32 = 1;
const FLAG_ANONYMOUS: u32 = 2;
const THE_PIN: u8 = 5;
