//! The address of a guest's network interface.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// The address of a guest's network interface: random, unicast and locally administered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddress([u8; 6]);

impl MacAddress {
    /// A new one.
    pub fn random() -> MacAddress {
        let mut bytes: [u8; 6] = rand::random();
        bytes[0] = bytes[0] & 0xfc | 0x02;
        MacAddress(bytes)
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl From<MacAddress> for String {
    fn from(mac: MacAddress) -> String {
        mac.to_string()
    }
}

impl TryFrom<String> for MacAddress {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for MacAddress {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let byte = |part: &str| u8::from_str_radix(part, 16).ok().filter(|_| part.len() == 2);
        let bytes: Option<Vec<u8>> = text.split(':').map(byte).collect();
        match bytes.and_then(|bytes| <[u8; 6]>::try_from(bytes).ok()) {
            // Every guest has a locally administered unicast address.
            Some(bytes) if bytes[0] & 0x03 == 0x02 => Ok(MacAddress(bytes)),
            _ => Err(format!("{text:?} is not an address for a guest's network interface")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_address_is_random_local_and_survives_being_written() {
        let (one, two) = (MacAddress::random(), MacAddress::random());
        assert_ne!(one, two);
        for mac in [one, two] {
            assert_eq!(mac.0[0] & 0x03, 0x02, "{mac}");
            assert_eq!(mac.to_string().parse(), Ok(mac));
        }
        for bad in
            ["", "02:00:00:00:00", "02:00:00:00:00:00:00", "2:0:0:0:0:0", "03:00:00:00:00:00", "00:1b:00:00:00:00"]
        {
            assert!(bad.parse::<MacAddress>().is_err(), "{bad}");
        }
    }
}
