//! `nightjar-certs` as a person uses it, held against openssl and against what a listener of the broker lets in.

mod commands;
mod handshakes;
mod openssl;
mod world;
