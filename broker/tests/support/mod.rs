//! What the tests that drive a `Shard` by hand share.

use std::io::IoSlice;

use nightjar::clock::Now;
use nightjar::identity::ConnectionId;
use nightjar::shard::Shard;

/// Takes what a connection would write, and says that it was written.
pub(crate) fn take(shard: &mut Shard, now: Now, id: ConnectionId) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some((send, pool)) = shard.output(id)
        && !send.is_empty()
    {
        let mut slices = [IoSlice::new(&[]); 64];
        let filled = send.slices(&mut slices);
        let before = bytes.len();
        for slice in &slices[..filled] {
            bytes.extend_from_slice(slice);
        }
        send.advance(bytes.len() - before, pool);
    }
    shard.wrote(now, id);
    bytes
}
