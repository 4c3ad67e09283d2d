//! Configuration files, from outside: what people have starts as it stands, what is wrong is told at once, and what Mosquitto
//! takes or refuses we take or refuse.
//!
//! Comes in: the files of `tests/interop/configs`, written in the manner of what is found in public. Goes out: real brokers,
//! started on each with other ports and another root directory. Where `mosquitto` is installed it is asked, too.

mod bad_values;
mod compared;
mod faults;
mod in_the_wild;
mod payload;
mod started;
