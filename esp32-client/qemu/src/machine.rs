//! The machine `virt` as far as it is needed: where it starts, its timer, its serial line, its way out.

use core::arch::global_asm;
use core::fmt::{self, Write};
use core::ptr::{read_volatile, write_volatile};
use core::task::Waker;

use embassy_time_driver::Driver;
use log::{LevelFilter, Log, Metadata, Record};

// The stack first, then nothing but zeros where Rust expects them; a trap ends the machine.
global_asm!(
    ".section .text.start, \"ax\"",
    ".global _start",
    "_start:",
    "la sp, _stack_end",
    "la t0, trap",
    "csrw mtvec, t0",
    "la t0, _bss_start",
    "la t1, _bss_end",
    "1: bgeu t0, t1, 2f",
    "sw zero, 0(t0)",
    "addi t0, t0, 4",
    "j 1b",
    "2: call main",
    ".align 2",
    "trap:",
    "csrr a0, mcause",
    "csrr a1, mepc",
    "csrr a2, mtval",
    "call trapped",
);

/// Ends the machine; qemu exits with 0, or with 1 where something failed.
pub(crate) fn finish(passed: bool) -> ! {
    let word: u32 = if passed { 0x5555 } else { 0x0001_3333 };
    // SAFETY: the test finisher of `virt` is a 32-bit register at this address, and writing it has no effect on memory.
    unsafe { write_volatile(FINISHER as *mut u32, word) };
    loop {
        core::hint::spin_loop();
    }
}

/// Waits for at most a millisecond.
pub(crate) fn rest() {
    let next = TIMER.ticks() + TICKS_PER_SECOND / 1000;
    let (low, high) = (next as u32, (next >> 32) as u32);
    // SAFETY: these are the halves of the comparator of hart 0. The order never leaves a value below `next` between two writes, and
    // with no interrupt enabled for the hart a timer that has run out does no more than end `wfi`.
    unsafe {
        write_volatile((TIMER_COMPARE + 4) as *mut u32, u32::MAX);
        write_volatile(TIMER_COMPARE as *mut u32, low);
        write_volatile((TIMER_COMPARE + 4) as *mut u32, high);
        riscv::register::mie::set_mtimer();
    }
    riscv::asm::wfi();
}

/// The timer of the hart, 10 MHz.
struct Timer;

impl Timer {
    fn ticks(&self) -> u64 {
        let half = |offset: usize| {
            // SAFETY: the two halves of `mtime`, which may be read at any time.
            unsafe { read_volatile((TIMER_NOW + offset) as *const u32) }
        };
        loop {
            let high = half(4);
            let low = half(0);
            if half(4) == high {
                return (u64::from(high) << 32) | u64::from(low);
            }
        }
    }
}

impl Driver for Timer {
    fn now(&self) -> u64 {
        self.ticks() / (TICKS_PER_SECOND / embassy_time_driver::TICK_HZ)
    }

    // Everything is polled again after each `rest`, so nobody has to be woken.
    fn schedule_wake(&self, _at: u64, _waker: &Waker) {}
}

embassy_time_driver::time_driver_impl!(static TIMER: Timer = Timer);

/// Log lines on the serial line.
pub(crate) struct Serial;

impl Serial {
    pub(crate) fn log_here() {
        static SERIAL: Serial = Serial;
        // SAFETY: there is one hart, no interrupt, and no logging before this.
        unsafe { log::set_logger_racy(&SERIAL) }.expect("it is set once");
        // SAFETY: as above.
        unsafe { log::set_max_level_racy(LevelFilter::Info) };
    }
}

impl Log for Serial {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let millis = TIMER.ticks() / (TICKS_PER_SECOND / 1000);
        let _ = writeln!(Line, "{millis:6} {:5} {}", record.level(), record.args());
    }

    fn flush(&self) {}
}

struct Line;

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            // SAFETY: the transmit register of the 16550 of `virt`, which qemu never lets fill up.
            unsafe { write_volatile(SERIAL as *mut u8, byte) };
        }
        Ok(())
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let _ = writeln!(Line, "{info}");
    finish(false)
}

// SAFETY: the name is used by the assembly above and by nothing else.
#[unsafe(no_mangle)]
extern "C" fn trapped(cause: usize, at: usize, value: usize) -> ! {
    let _ = writeln!(Line, "trap {cause} at {at:#x}, {value:#x}");
    finish(false)
}

const FINISHER: usize = 0x0010_0000;
const TIMER_COMPARE: usize = 0x0200_4000;
const TIMER_NOW: usize = 0x0200_bff8;
const TICKS_PER_SECOND: u64 = 10_000_000;
const SERIAL: usize = 0x1000_0000;
