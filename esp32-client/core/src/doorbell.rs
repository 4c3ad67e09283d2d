//! Wakes the driver when there is something to send. For one thread: a device's tasks share it as they share the device.

use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::task::{Poll, Waker};

/// Rung by whoever has given the device something to do, heard by [`crate::driver::serve`].
#[derive(Debug, Default)]
pub struct Doorbell {
    rung: Cell<bool>,
    listener: RefCell<Option<Waker>>,
}

impl Doorbell {
    /// A doorbell that has not been rung.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            rung: Cell::new(false),
            listener: RefCell::new(None),
        }
    }

    /// Wakes the one who waits, or lets the next one not wait.
    pub fn ring(&self) {
        self.rung.set(true);
        let listener = self.listener.borrow_mut().take();
        if let Some(listener) = listener {
            listener.wake();
        }
    }

    /// Returns when it has been rung since the last return. One may wait at a time.
    pub async fn rung(&self) {
        poll_fn(|context| {
            if self.rung.take() {
                return Poll::Ready(());
            }
            self.listener.replace(Some(context.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use embassy_futures::{block_on, poll_once};

    use super::*;

    #[test]
    fn a_ring_before_the_wait_is_heard_once() {
        let doorbell = Doorbell::new();
        doorbell.ring();
        doorbell.ring();
        block_on(doorbell.rung());
        assert!(poll_once(doorbell.rung()).is_pending());
    }
}
