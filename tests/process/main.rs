//! The broker as a process of its system: signals, reload, the background, the service manager, log files, what is installed.

mod background;
mod image;
mod installed;
mod log_files;
mod reload;
mod service_manager;
mod signals;
mod syslog;
mod world;
