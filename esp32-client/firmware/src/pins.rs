//! The pins that `digitalWrite` may write. All others are refused: flash, USB and the serial line hang on some of them.

use alloc::vec::Vec;

use esp_hal::gpio::{Level, Output, OutputConfig};
use log::info;
use nightjar_device::core::{Actuator, Refusal};

/// Outputs by their numbers.
#[derive(Debug)]
pub(crate) struct Pins(Vec<(u8, Output<'static>)>);

/// The outputs of a chip, low at first.
macro_rules! pins {
    ($chip:ident: $($number:literal $name:ident),+) => {
        $crate::pins::Pins::of(alloc::vec![$(($number, $crate::pins::low($chip.$name))),+])
    };
}
pub(crate) use pins;

impl Pins {
    pub(crate) fn of(pins: Vec<(u8, Output<'static>)>) -> Self {
        Self(pins)
    }
}

/// An output that is low.
pub(crate) fn low(pin: impl esp_hal::gpio::OutputPin + 'static) -> Output<'static> {
    Output::new(pin, Level::Low, OutputConfig::default())
}

impl Actuator for Pins {
    fn digital_write(&mut self, pin: u8, level: bool) -> Result<(), Refusal> {
        let output = self.0.iter_mut().find(|(number, _)| *number == pin);
        let (_, output) = output.ok_or(Refusal("no such pin"))?;
        output.set_level(Level::from(level));
        info!("pin {pin} is {}", if level { "high" } else { "low" });
        Ok(())
    }
}
