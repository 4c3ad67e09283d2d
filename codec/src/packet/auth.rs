//! AUTH: a step of enhanced authentication, in 5.0 only.

use alloc::boxed::Box;

use bytes::Bytes;

use super::acknowledge::reason_code;
use super::encode_methods;
use crate::error::{EncodeError, Misdeed};
use crate::frame::{Limits, PacketType};
use crate::primitive::{Blobs, Body, Properties, Reader, Sink, put_properties};
use crate::property::{self, PropertyId, PutProperty, UserProperties, Value};
use crate::reason_code::ReasonCode;
use crate::version::ProtocolVersion;

/// AUTH.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// Success, Continue authentication or Re-authenticate.
    pub reason_code: ReasonCode,
    /// Its properties.
    pub properties: AuthProperties,
}

/// Properties of AUTH.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthProperties {
    /// Authentication Method. The shortest AUTH has none; every other must.
    pub authentication_method: Option<Box<str>>,
    /// Authentication Data.
    pub authentication_data: Option<Bytes>,
    /// Reason String.
    pub reason_string: Option<Box<str>>,
    /// User Properties.
    pub user_properties: UserProperties,
}

encode_methods!(Auth, PacketType::Auth);

impl Auth {
    pub(super) fn decode(
        reader: &mut Reader<'_>,
        blobs: Blobs<'_>,
        limits: &Limits,
    ) -> Result<Self, Misdeed> {
        let mut auth = Self {
            reason_code: ReasonCode::Success,
            properties: AuthProperties::default(),
        };
        if !reader.is_empty() {
            auth.reason_code = reason_code(reader, PacketType::Auth)?;
        }
        // As in the other packets, no Property Length is no properties; 3.15.2.1 leaves it out only beside the Reason Code, but
        // an AUTH of one byte is answered 0x82 in the byte vectors, not 0x81.
        if !reader.is_empty() {
            auth.properties = AuthProperties::decode(reader, blobs, limits)?;
        }
        Ok(auth)
    }
}

impl Body for Auth {
    fn write(&self, version: ProtocolVersion, sink: &mut impl Sink) {
        if !version.is_v5() {
            return sink.fail(EncodeError::PacketNotInVersion);
        }
        // 3.15.2.1: both are left out together, or neither.
        if self.reason_code != ReasonCode::Success || !self.properties.is_empty() {
            sink.put_u8(self.reason_code.as_u8());
            put_properties(sink, &self.properties);
        }
    }
}

impl AuthProperties {
    fn decode(reader: &mut Reader<'_>, blobs: Blobs<'_>, limits: &Limits) -> Result<Self, Misdeed> {
        let mut properties = Self::default();
        let mut reader = reader.properties()?;
        while !reader.is_empty() {
            match property::read(&mut reader)? {
                (id @ PropertyId::AuthenticationMethod, Value::Text(text)) => {
                    property::once(&mut properties.authentication_method, id, text.into())?;
                }
                (id @ PropertyId::AuthenticationData, Value::Binary(data)) => {
                    property::once(&mut properties.authentication_data, id, blobs.blob(data))?;
                }
                (id @ PropertyId::ReasonString, Value::Text(text)) => {
                    property::once(&mut properties.reason_string, id, text.into())?;
                }
                (_, Value::Pair(name, value)) => property::push_user_property(
                    &mut properties.user_properties,
                    name,
                    value,
                    limits,
                )?,
                (id, _) => return Err(Misdeed::PropertyNotAllowed(id)),
            }
        }
        // 4.12: data belongs to a method.
        if properties.authentication_data.is_some() && properties.authentication_method.is_none() {
            return Err(Misdeed::AuthenticationDataWithoutMethod);
        }
        Ok(properties)
    }
}

impl Properties for AuthProperties {
    fn write(&self, sink: &mut impl Sink) {
        sink.property_text(
            PropertyId::AuthenticationMethod,
            self.authentication_method.as_deref(),
        );
        sink.property_binary(
            PropertyId::AuthenticationData,
            self.authentication_data.as_deref(),
        );
        sink.property_text(PropertyId::ReasonString, self.reason_string.as_deref());
        sink.user_properties(&self.user_properties);
    }
}
