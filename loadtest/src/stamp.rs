//! The first bytes of every payload: who sent it, which one it is, and when it was due.
//!
//! Every message carries its stamp, not a sample of them: patching twelve bytes and comparing them on arrival costs a few
//! nanoseconds, and a loss of one message in a million is found.

/// Publisher (4 bytes), sequence number (8), due time in nanoseconds (8), big endian.
pub const STAMP_LENGTH: usize = 20;

/// Offset of the sequence number in a payload.
pub const SEQUENCE_AT: usize = 4;

/// Offset of the due time in a payload; 0 says that there is none.
pub const DUE_AT: usize = 12;

/// What a payload says of itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stamp {
    pub publisher: u32,
    pub sequence: u64,
    pub due: u64,
}

impl Stamp {
    /// Reads the stamp of `payload`, `None` if it is too short to have one.
    #[inline]
    #[must_use]
    pub fn read(payload: &[u8]) -> Option<Self> {
        let (publisher, rest) = payload.split_first_chunk()?;
        let (sequence, rest) = rest.split_first_chunk()?;
        let (due, _) = rest.split_first_chunk()?;
        Some(Self {
            publisher: u32::from_be_bytes(*publisher),
            sequence: u64::from_be_bytes(*sequence),
            due: u64::from_be_bytes(*due),
        })
    }

    /// What a payload begins with.
    #[must_use]
    pub fn bytes(self) -> [u8; STAMP_LENGTH] {
        let mut bytes = [0; STAMP_LENGTH];
        let (publisher, rest) = bytes.split_at_mut(SEQUENCE_AT);
        publisher.copy_from_slice(&self.publisher.to_be_bytes());
        let (sequence, due) = rest.split_at_mut(DUE_AT - SEQUENCE_AT);
        sequence.copy_from_slice(&self.sequence.to_be_bytes());
        due.copy_from_slice(&self.due.to_be_bytes());
        bytes
    }

    /// A payload of `length` bytes (at least `STAMP_LENGTH`) that begins with this stamp.
    #[must_use]
    pub fn payload(self, length: usize) -> Vec<u8> {
        let mut payload = Vec::with_capacity(length);
        payload.extend(self.bytes());
        payload.resize(length.max(STAMP_LENGTH), b'.');
        payload
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_survives_its_payload() {
        let stamp = Stamp {
            publisher: 7,
            sequence: 1 << 40,
            due: 123_456_789_012,
        };
        let payload = stamp.payload(64);
        assert_eq!((payload.len(), Stamp::read(&payload)), (64, Some(stamp)));
        assert_eq!(Stamp::read(&payload[..STAMP_LENGTH - 1]), None);
        assert_eq!(payload[SEQUENCE_AT..DUE_AT], (1_u64 << 40).to_be_bytes());
    }
}
