//! Network and random numbers of the machine: virtio devices behind the traits that the chips' drivers implement, too.

use alloc::boxed::Box;
use core::cell::RefCell;
use core::convert::Infallible;
use core::ptr::NonNull;
use core::task::Context;

use embassy_net_driver::{Capabilities, Driver, HardwareAddress, LinkState};
use rand_core::{TryCryptoRng, TryRng};
use virtio_drivers::device::net::{RxBuffer, VirtIONet};
use virtio_drivers::device::rng::VirtIORng;
use virtio_drivers::transport::mmio::{MmioTransport, VirtIOHeader};
use virtio_drivers::transport::{DeviceType, Transport};
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

type Link = VirtIONet<Memory, MmioTransport<'static>, QUEUE>;

/// The Ethernet device.
pub(crate) struct Network {
    link: RefCell<Link>,
}

/// The source of random numbers.
pub(crate) struct Random(VirtIORng<Memory, MmioTransport<'static>>);

/// The first network device and the first source of random numbers of the machine.
pub(crate) fn find() -> (Network, Random) {
    let (mut network, mut random) = (None, None);
    for slot in 0..SLOTS {
        let address = FIRST_SLOT + slot * SLOT_BYTES;
        let header = NonNull::new(address as *mut VirtIOHeader).expect("it is not at 0");
        // SAFETY: `virt` has eight slots of 4 KiB there, with a header in each, and each is taken once.
        let Ok(transport) = (unsafe { MmioTransport::new(header, SLOT_BYTES) }) else {
            continue;
        };
        match transport.device_type() {
            DeviceType::Network => {
                let link = VirtIONet::new(transport, FRAME_BYTES_MAX).expect("it can be used");
                network = Some(Network {
                    link: RefCell::new(link),
                });
            }
            DeviceType::EntropySource => {
                random = Some(Random(VirtIORng::new(transport).expect("it can be used")));
            }
            _ => {}
        }
    }
    (
        network.expect("qemu was started with virtio-net-device"),
        random.expect("qemu was started with virtio-rng-device"),
    )
}

impl Driver for Network {
    type RxToken<'a> = Received<'a>;
    type TxToken<'a> = Room<'a>;

    fn receive(&mut self, _: &mut Context<'_>) -> Option<(Received<'_>, Room<'_>)> {
        let frame = self.link.borrow_mut().receive().ok()?;
        let link = &self.link;
        Some((Received { link, frame }, Room { link }))
    }

    fn transmit(&mut self, _: &mut Context<'_>) -> Option<Room<'_>> {
        let free = self.link.borrow().can_send();
        free.then_some(Room { link: &self.link })
    }

    fn link_state(&mut self, _: &mut Context<'_>) -> LinkState {
        LinkState::Up
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::default();
        capabilities.max_transmission_unit = MTU;
        capabilities.max_burst_size = Some(1);
        capabilities
    }

    fn hardware_address(&self) -> HardwareAddress {
        HardwareAddress::Ethernet(self.link.borrow().mac_address())
    }
}

/// One frame that came.
pub(crate) struct Received<'a> {
    link: &'a RefCell<Link>,
    frame: RxBuffer,
}

impl embassy_net_driver::RxToken for Received<'_> {
    fn consume<R, F>(mut self, look: F) -> R
    where
        F: FnOnce(&mut [u8]) -> R,
    {
        let seen = look(self.frame.packet_mut());
        self.link
            .borrow_mut()
            .recycle_rx_buffer(self.frame)
            .expect("its place in the queue is free");
        seen
    }
}

/// Room for one frame to send.
pub(crate) struct Room<'a> {
    link: &'a RefCell<Link>,
}

impl embassy_net_driver::TxToken for Room<'_> {
    fn consume<R, F>(self, length: usize, fill: F) -> R
    where
        F: FnOnce(&mut [u8]) -> R,
    {
        let mut link = self.link.borrow_mut();
        let mut frame = link.new_tx_buffer(length);
        let filled = fill(frame.packet_mut());
        link.send(frame).expect("there was room");
        filled
    }
}

impl TryRng for Random {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_ne_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_ne_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let filled = self
                .0
                .request_entropy(rest)
                .expect("qemu has random numbers");
            rest = &mut rest[filled..];
        }
        Ok(())
    }
}

impl TryCryptoRng for Random {}

/// Where the devices read and write. There is no paging: an address is an address for all.
struct Memory;

// SAFETY: the pages come from the heap, aligned and zeroed, and belong to nobody else until they are given back; addresses of the CPU
// and of the devices are the same ones.
unsafe impl Hal for Memory {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let taken: Box<[Page]> = (0..pages).map(|_| Page([0; PAGE_SIZE])).collect();
        let start = NonNull::from(Box::leak(taken)).cast::<u8>();
        (start.as_ptr() as PhysAddr, start)
    }

    // SAFETY: as the trait asks: `start` is what `dma_alloc` gave for as many pages.
    unsafe fn dma_dealloc(_: PhysAddr, start: NonNull<u8>, pages: usize) -> i32 {
        let pages = core::ptr::slice_from_raw_parts_mut(start.as_ptr().cast::<Page>(), pages);
        // SAFETY: this is the box that `dma_alloc` leaked.
        drop(unsafe { Box::from_raw(pages) });
        0
    }

    // SAFETY: as the trait asks; nothing calls it, for there is no PCI.
    unsafe fn mmio_phys_to_virt(address: PhysAddr, _: usize) -> NonNull<u8> {
        NonNull::new(address as *mut u8).expect("no device is at 0")
    }

    // SAFETY: as the trait asks; sharing changes nothing.
    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        buffer.cast::<u8>().as_ptr() as PhysAddr
    }

    // SAFETY: as the trait asks; there is nothing to undo.
    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}

#[repr(C, align(4096))]
struct Page([u8; PAGE_SIZE]);

const FIRST_SLOT: usize = 0x1000_1000;
const SLOT_BYTES: usize = 0x1000;
const SLOTS: usize = 8;
const QUEUE: usize = 8;
const MTU: usize = 1514;
/// With the header of virtio.
const FRAME_BYTES_MAX: usize = 1536;
