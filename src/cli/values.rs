//! The values of flags: each parser takes a text and answers with a typed value or with what is wrong with the text.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::api::names::PoolKind;
use crate::pool::key::PoolKey;
use crate::telemetry::logs::Format;

/// Longest namespace name and longest label value of Kubernetes.
const MAX_NAME: usize = 63;

/// What an address flag says: listen there, or not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Listen {
    Off,
    At(SocketAddr),
}

impl Listen {
    pub(super) fn address(self) -> Option<SocketAddr> {
        match self {
            Self::Off => None,
            Self::At(address) => Some(address),
        }
    }
}

/// Go's `strconv.ParseBool`.
pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("is not true or false".to_owned()),
    }
}

/// A listen address as Go writes it: `:8081` is every interface, `0` or nothing means off.
pub(super) fn listen(text: &str) -> Result<Listen, String> {
    if text.is_empty() || text == "0" {
        return Ok(Listen::Off);
    }
    let wrong = || "is not an address such as :8081, 127.0.0.1:8081 or [::1]:8081 (0 turns it off)".to_owned();
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port = port.parse::<u16>().map_err(|_| "has no port between 0 and 65535".to_owned())?;
    // `:8081` is "::" as in Go: one socket for both families. A host without IPv6 falls back when the port is bound.
    let host = match host {
        "" => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
        _ => ip(host).ok_or_else(wrong)?,
    };
    Ok(Listen::At(SocketAddr::new(host, port)))
}

/// An address to listen on without its port; nothing means every interface.
pub(super) fn host(text: &str) -> Result<IpAddr, String> {
    match text {
        "" => Ok(IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
        "localhost" => Ok(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        _ => text.parse().ok().or_else(|| ip(text)).ok_or_else(|| "is not an IP address".to_owned()),
    }
}

/// IPv6 only within brackets: its own colons would be ambiguous.
fn ip(host: &str) -> Option<IpAddr> {
    match host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')) {
        Some(inner) => inner.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => host.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    }
}

/// A port, 0 for none.
pub(super) fn port(text: &str) -> Result<u16, String> {
    text.parse().map_err(|_| "is not a port between 0 and 65535".to_owned())
}

/// A namespace, empty for all of them.
pub(super) fn namespace(text: &str) -> Result<String, String> {
    label(text, "a namespace")
}

/// A Service, empty for none.
pub(super) fn service(text: &str) -> Result<String, String> {
    label(text, "a Service")
}

fn label(text: &str, what: &str) -> Result<String, String> {
    let edges_are_plain = !text.starts_with('-') && !text.ends_with('-');
    let plain = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if text.len() <= MAX_NAME && plain && edges_are_plain {
        Ok(text.to_owned())
    } else {
        Err(format!("is not the name of {what}"))
    }
}

/// A pool by its kind, namespace and name.
pub(super) fn pool(text: &str) -> Result<PoolKey, String> {
    let wrong = || {
        let kinds = PoolKind::ALL.map(PoolKind::kind).join(", ");
        format!("is not <kind>/<namespace>/<name>, or <kind>/<name> for a Global kind, with one of the kinds {kinds}")
    };
    let mut parts = text.split('/');
    let kind = parts.next().and_then(PoolKind::from_kind).ok_or_else(wrong)?;
    let namespace = if kind.is_global() { "" } else { parts.next().unwrap_or_default() };
    match (parts.next(), parts.next()) {
        (Some(name), None) if !name.is_empty() && (kind.is_global() || !namespace.is_empty()) => {
            Ok(PoolKey::referenced(kind, namespace, name))
        }
        _ => Err(wrong()),
    }
}

/// A label value: any other text could never match an object.
pub(super) fn label_value(text: &str) -> Result<String, String> {
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    let edge = |b: Option<&u8>| b.is_none_or(u8::is_ascii_alphanumeric);
    if text.len() <= MAX_NAME && plain && edge(text.as_bytes().first()) && edge(text.as_bytes().last()) {
        Ok(text.to_owned())
    } else {
        Err("is not a label value".to_owned())
    }
}

/// How log lines look.
pub(super) fn log_format(text: &str) -> Result<Format, String> {
    match text {
        "auto" => Ok(Format::Auto),
        "text" => Ok(Format::Text),
        "json" => Ok(Format::Json),
        _ => Err("is none of auto, text and json".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: &str) -> Listen {
        Listen::At(address.parse().expect("an address of the test"))
    }

    #[test]
    fn booleans_are_those_of_go() {
        for text in ["1", "t", "T", "true", "TRUE", "True"] {
            assert_eq!(boolean(text), Ok(true), "{text}");
        }
        for text in ["0", "f", "F", "false", "FALSE", "False"] {
            assert_eq!(boolean(text), Ok(false), "{text}");
        }
        for text in ["", "yes", "tRUE", "2", " true"] {
            assert!(boolean(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn listen_addresses_are_those_of_go() {
        assert_eq!(listen(":8081"), Ok(at("[::]:8081")));
        assert_eq!(listen("[::]:8081"), Ok(at("[::]:8081")));
        assert_eq!(listen("0.0.0.0:8081"), Ok(at("0.0.0.0:8081")));
        assert_eq!(listen("127.0.0.1:0"), Ok(at("127.0.0.1:0")));
        assert_eq!(listen("localhost:8080"), Ok(at("127.0.0.1:8080")));
        assert_eq!(listen("[::1]:9"), Ok(at("[::1]:9")));
    }

    #[test]
    fn zero_and_nothing_turn_an_address_off() {
        assert_eq!(listen("0"), Ok(Listen::Off));
        assert_eq!(listen(""), Ok(Listen::Off));
    }

    #[test]
    fn what_is_no_listen_address_is_refused() {
        for text in
            ["8081", ":", ":x", ":65536", ":-1", "::1:80", "[::1:80", "[127.0.0.1]:80", "example.org:80", "1.2.3:4"]
        {
            assert!(listen(text).is_err(), "{text}");
        }
        assert_eq!(listen(":65536"), Err("has no port between 0 and 65535".to_owned()));
    }

    #[test]
    fn a_host_is_an_address_with_or_without_brackets() {
        assert_eq!(host(""), Ok(IpAddr::V6(Ipv6Addr::UNSPECIFIED)));
        assert_eq!(host("::1"), Ok(IpAddr::V6(Ipv6Addr::LOCALHOST)));
        assert_eq!(host("[::1]"), Ok(IpAddr::V6(Ipv6Addr::LOCALHOST)));
        assert_eq!(host("127.0.0.1"), Ok(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        assert!(host("webhooks.example.org").is_err());
    }

    #[test]
    fn a_pool_is_named_by_kind_namespace_and_name() {
        let named = pool("InClusterIPPool/default/rack-a").map(|pool| pool.to_string());
        assert_eq!(named.as_deref(), Ok("InClusterIPPool default/rack-a"));
        let global = pool("GlobalInClusterPrefixPool/all").map(|pool| pool.to_string());
        assert_eq!(global.as_deref(), Ok("GlobalInClusterPrefixPool all"));
        for text in ["", "rack-a", "default/rack-a", "InClusterIPPool/a", "InClusterIPPool//a", "InClusterIPPool/a/b/c"]
        {
            assert!(pool(text).is_err(), "{text}");
        }
        assert!(pool("GlobalInClusterIPPool/ns/a").is_err());
    }

    #[test]
    fn names_that_no_object_can_have_are_refused() {
        for text in ["", "capi-system", "0", &"a".repeat(63)] {
            assert_eq!(namespace(text), Ok(text.to_owned()));
        }
        for text in ["-a", "a-", "A", "a.b", "a/b", &"a".repeat(64)] {
            assert!(namespace(text).is_err(), "{text}");
        }
        for text in ["", "a", "A_b.c-9", &"a".repeat(63)] {
            assert_eq!(label_value(text), Ok(text.to_owned()));
        }
        for text in ["-a", "a.", "a b", "a,b", "é", &"a".repeat(64)] {
            assert!(label_value(text).is_err(), "{text}");
        }
    }
}
