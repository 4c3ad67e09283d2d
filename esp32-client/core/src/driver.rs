//! Moves bytes between a device and one connection: any `Read` and `Write` of embedded-io-async, TLS as a rule.
//!
//! The device is in a `RefCell`, for the tasks of a device run on one thread: one records readings, this one sends them. It is never
//! borrowed while something is awaited.

use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::future::pending;
use core::time::Duration;

use embassy_futures::select::{Either, Either3, select, select3};
use embedded_io_async::{Read, Write};

use crate::command::Actuator;
use crate::device::Device;
use crate::doorbell::Doorbell;
use crate::session::{Ended, READ_BYTES_MAX};
use crate::store::Store;
use crate::time::{Clock, Instant};

/// Serves a connection until it is over, and says why it is; an error is the transport's. The transport is to be closed then.
///
/// A `read` that is dropped while it waits must lose nothing: that of mbedtls-rs and of sockets do not.
pub async fn serve<T, C, S, A>(
    device: &RefCell<Device<S, A>>,
    doorbell: &Doorbell,
    transport: &mut T,
    clock: &C,
) -> Result<Ended, T::Error>
where
    T: Read + Write,
    C: Clock,
    S: Store,
    A: Actuator,
{
    device.borrow_mut().open(clock.now());
    let ended = exchange(device, doorbell, transport, clock).await;
    device.borrow_mut().close();
    ended
}

async fn exchange<T, C, S, A>(
    device: &RefCell<Device<S, A>>,
    doorbell: &Doorbell,
    transport: &mut T,
    clock: &C,
) -> Result<Ended, T::Error>
where
    T: Read + Write,
    C: Clock,
    S: Store,
    A: Actuator,
{
    let mut buffer = vec![0; READ_BYTES_MAX];
    loop {
        let ended = device.borrow_mut().turn(clock.now());
        let written = write_all(device, transport, clock).await;
        if let Some(ended) = ended {
            return Ok(ended);
        }
        if let Some(stuck) = written? {
            return Ok(stuck);
        }
        let (wants_input, deadline) = {
            let device = device.borrow();
            (device.wants_input(), device.deadline())
        };
        if !wants_input {
            // What was outgoing is written, so there is room for another turn.
            continue;
        }
        match select3(
            transport.read(&mut buffer),
            until(deadline, clock),
            doorbell.rung(),
        )
        .await
        {
            Either3::First(Ok(count)) if count > 0 => {
                let bytes = buffer.get(..count).unwrap_or_default();
                // All of it, unless the device was stopped meanwhile.
                device.borrow_mut().receive(bytes);
            }
            Either3::First(Ok(_)) => return Ok(Ended::Closed),
            Either3::First(Err(error)) => return Err(error),
            Either3::Second(()) | Either3::Third(()) => {}
        }
    }
}

/// Writes what is outgoing, within a bound of time for each piece.
async fn write_all<T, C, S, A>(
    device: &RefCell<Device<S, A>>,
    transport: &mut T,
    clock: &C,
) -> Result<Option<Ended>, T::Error>
where
    T: Read + Write,
    C: Clock,
    S: Store,
    A: Actuator,
{
    let mut wrote = false;
    loop {
        let piece: Vec<u8> = device
            .borrow()
            .outgoing()
            .iter()
            .take(PIECE_BYTES_MAX)
            .copied()
            .collect();
        if piece.is_empty() && !wrote {
            return Ok(None);
        }
        let give_up = clock.wait_until(clock.now().monotonic + WRITE_WITHIN);
        if piece.is_empty() {
            return match select(transport.flush(), give_up).await {
                Either::First(flushed) => flushed.map(|()| None),
                Either::Second(()) => Ok(Some(Ended::WriteTimeout)),
            };
        }
        match select(transport.write(&piece), give_up).await {
            Either::First(Ok(0)) => return Ok(Some(Ended::Closed)),
            Either::First(Ok(count)) => device.borrow_mut().written(count),
            Either::First(Err(error)) => return Err(error),
            Either::Second(()) => return Ok(Some(Ended::WriteTimeout)),
        }
        wrote = true;
    }
}

async fn until<C: Clock>(deadline: Option<Instant>, clock: &C) {
    match deadline {
        Some(deadline) => clock.wait_until(deadline).await,
        None => pending().await,
    }
}

/// One TLS record, of those that small clients take.
const PIECE_BYTES_MAX: usize = 4096;
const WRITE_WITHIN: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests;
