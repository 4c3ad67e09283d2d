//! The arguments of `nightjar-certs`.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Makes and keeps the certificates of an MQTT broker and its devices
#[derive(Debug, Parser)]
#[command(name = "nightjar-certs", version)]
pub(crate) struct Arguments {
    /// Where the authority and all that it issues lies
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        default_value = "certificates"
    )]
    pub(crate) dir: PathBuf,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a private certificate authority
    Init(Init),
    /// Make the certificate of a broker, for its names and addresses
    Server(Server),
    /// Make the certificate of a device
    Device(Device),
    /// Make the certificates of all devices in a CSV file with the columns id, site, tenant
    Batch(Batch),
    /// Make a new certificate for a server or device, for the same key
    Renew(Renew),
    /// Declare certificates void, and write the list of those
    Revoke(Revoke),
    /// Write the list of void certificates again, so that it goes on being valid
    Crl(Crl),
    /// Show what was issued
    List(List),
    /// Show what a certificate says
    Show(Which),
    /// Show the SHA-256 of a certificate and of its public key
    Fingerprint(Which),
}

#[derive(Args, Debug)]
pub(crate) struct Init {
    /// Let an authority of its own below the root sign, so that the root's key can be kept elsewhere
    #[arg(long)]
    pub(crate) issuing: bool,
    /// What the authority is called
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Server {
    /// Host names by which clients call the broker; addresses are welcome, too
    #[arg(value_name = "NAME", required = true)]
    pub(crate) names: Vec<String>,
    /// An address by which clients call it; may be given again
    #[arg(long, value_name = "IP")]
    pub(crate) ip: Vec<IpAddr>,
    #[command(flatten)]
    pub(crate) made: Made,
}

/// How certificates are made.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Made {
    /// For how many days it is valid [default: 825 for a server, 1825 for a device]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=36_500))]
    pub(crate) days: Option<u32>,
    /// Write over files that are there
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Device {
    /// The device's id: its user name, and its Client Identifier if you like
    pub(crate) id: String,
    /// Where it stands; in the certificate as organizational unit
    #[arg(long, value_name = "S")]
    pub(crate) site: Option<String>,
    /// Whose it is; in the certificate as organization
    #[arg(long, value_name = "T")]
    pub(crate) tenant: Option<String>,
    #[command(flatten)]
    pub(crate) esp: Esp,
    #[command(flatten)]
    pub(crate) made: Made,
}

/// What a chip gets.
#[derive(Args, Clone, Debug)]
pub(crate) struct Esp {
    /// Write what an ESP32 needs, too: DER, settings as TOML and as C header, a blob to flash, a QR code
    #[arg(long)]
    pub(crate) esp: bool,
    /// The broker's name for those settings [default: that of the newest server certificate]
    #[arg(long, value_name = "HOST")]
    pub(crate) broker: Option<String>,
    /// The broker's port for them
    #[arg(long, value_name = "PORT", default_value_t = 8883, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: u16,
    /// The Wi-Fi that the device is to join, for provisioning.bin
    #[arg(long, value_name = "SSID", requires = "esp")]
    pub(crate) wifi: Option<String>,
    /// A file whose first line is its password; without one the network is open
    #[arg(long, value_name = "FILE", requires = "wifi")]
    pub(crate) wifi_password_file: Option<PathBuf>,
    /// A file with more keys for config.toml and provisioning.bin: ntp_server, topics, and what else a device knows
    #[arg(long, value_name = "FILE", requires = "esp")]
    pub(crate) esp_config: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct Batch {
    /// The file; its first line names the columns
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) esp: Esp,
    /// For how many days they are valid [default: 1825]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=36_500))]
    pub(crate) days: Option<u32>,
}

#[derive(Args, Debug)]
pub(crate) struct Renew {
    /// An id, the first name of a server, or a serial number
    #[arg(value_name = "ID|SERIAL")]
    pub(crate) which: String,
    /// Make a new key, too; who pinned the public key has to be told
    #[arg(long)]
    pub(crate) new_key: bool,
    /// For how many days the one before is let in beside it [default: until its end]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=36_500))]
    pub(crate) grace_days: Option<u32>,
    /// For how many days it is valid [default: 825 for a server, 1825 for a device]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=36_500))]
    pub(crate) days: Option<u32>,
}

#[derive(Args, Debug)]
pub(crate) struct Revoke {
    /// An id or the first name of a server: all its certificates; or the serial number of one
    #[arg(value_name = "ID|SERIAL")]
    pub(crate) which: String,
    #[command(flatten)]
    pub(crate) list: Crl,
}

#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Crl {
    /// For how many days the list is valid; when it has ended the broker lets nobody in
    #[arg(long = "crl-days", value_name = "N", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3_650))]
    pub(crate) days: u32,
}

#[derive(Args, Debug)]
pub(crate) struct List {
    /// One line of JSON each
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Which {
    /// A file, an id or a serial number
    #[arg(value_name = "FILE|ID")]
    pub(crate) which: String,
}
