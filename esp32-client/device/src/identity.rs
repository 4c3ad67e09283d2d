//! Who the device is and whom it trusts, as mbedTLS has it.

use alloc::ffi::CString;
use core::ffi::CStr;

use mbedtls_rs::{
    AuthMode, Certificate, ClientSessionConfig, Credentials, PrivateKey, SessionConfig,
    SessionError, TlsVersion, X509,
};
use nightjar_esp32_core::Provisioning;

/// Parsed once, used for every connection.
pub struct Identity {
    authority: Certificate<'static>,
    own: Option<Credentials<'static>>,
    broker: CString,
    newest: Option<TlsVersion>,
}

impl Identity {
    /// Of what was provisioned, for the broker of that name. Everything is copied: flash is not read again.
    ///
    /// # Errors
    ///
    /// What mbedTLS says of a certificate or key that it cannot read.
    pub fn new(provisioning: &Provisioning<'_>, broker: &str) -> Result<Self, SessionError> {
        let chain = provisioning.certificate_chain_pem();
        let chain = CStr::from_bytes_until_nul(&chain).unwrap_or_default();
        Ok(Self {
            authority: Certificate::new(X509::DER(provisioning.ca))?,
            own: Some(Credentials {
                certificate: Certificate::new(X509::PEM(chain))?,
                private_key: PrivateKey::new(X509::DER(provisioning.key), None)?,
            }),
            // A configuration with a NUL in it is refused before; an empty name is that of no certificate.
            broker: CString::new(broker).unwrap_or_default(),
            newest: None,
        })
    }

    /// Offers nothing newer than `version`.
    #[must_use]
    pub fn at_most(mut self, version: TlsVersion) -> Self {
        self.newest = Some(version);
        self
    }

    /// Shows no certificate: a broker that wants one refuses it.
    #[must_use]
    pub fn anonymous(mut self) -> Self {
        self.own = None;
        self
    }

    /// What a session is made with. The broker's certificate must name the broker, be of the authority, and be valid now.
    pub(crate) fn session(&self) -> SessionConfig<'_> {
        SessionConfig::Client(ClientSessionConfig {
            ca_chain: Some(self.authority.clone()),
            creds: self.own.clone(),
            server_name: Some(&self.broker),
            auth_mode: AuthMode::Required,
            max_version: self.newest,
            ..ClientSessionConfig::new()
        })
    }
}
