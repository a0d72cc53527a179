//! IP pools from v1alpha1 to v1alpha2 and back, without losing what only one of the two versions has (contract §5).
//!
//! Works on JSON, so that fields that are not known here survive. What a version cannot say is kept in an annotation, and
//! only where something would be lost without it: the v1alpha1 spec (subnet, start, end) on objects of v1alpha2, the
//! v1alpha2 spec (exclusions and the like) on objects of v1alpha1. Status is the same in both and never touched.

#[cfg(test)]
mod tests;

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use super::names::{CONVERSION_DATA_ANNOTATION, GROUP, POOL_API_VERSION, PoolKind, V1ALPHA1};
use super::parse::{self, FieldError};
use super::{v1alpha1, v1alpha2};

/// The fields that both versions have.
const SHARED: [&str; 3] = ["addresses", "gateway", "prefix"];

/// Why an object cannot be converted. None of them concerns reading: what is stored in v1alpha2 reads as v1alpha1.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConversionError {
    /// The object is not one of the pools.
    #[error("objects of apiVersion {api_version:?} and kind {kind:?} are not converted here")]
    Foreign {
        /// What the object says.
        api_version: String,
        /// What the object says.
        kind: String,
    },
    /// Its kind has no such version.
    #[error("{kind} has no version {wanted:?}")]
    NoSuchVersion {
        /// The kind.
        kind: PoolKind,
        /// The apiVersion that was asked for.
        wanted: String,
    },
    /// The subnet of a v1alpha1 object cannot be read, so that nobody knows which addresses are meant.
    #[error(transparent)]
    Subnet(FieldError),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    V1Alpha1,
    V1Alpha2,
}

impl Version {
    fn of(api_version: &str) -> Option<Self> {
        match api_version.strip_prefix(GROUP)?.strip_prefix('/')? {
            V1ALPHA1 => Some(Self::V1Alpha1),
            _ if api_version == POOL_API_VERSION => Some(Self::V1Alpha2),
            _ => None,
        }
    }

    fn api_version(self) -> String {
        match self {
            Self::V1Alpha1 => format!("{GROUP}/{V1ALPHA1}"),
            Self::V1Alpha2 => POOL_API_VERSION.to_owned(),
        }
    }
}

/// The object in the wanted apiVersion.
pub fn convert(mut object: Value, wanted: &str) -> Result<Value, ConversionError> {
    let text = |field: &str| object[field].as_str().unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let (Some(from), Some(kind)) = (Version::of(api_version), PoolKind::from_kind(kind)) else {
        return Err(ConversionError::Foreign { api_version: api_version.to_owned(), kind: kind.to_owned() });
    };
    let no_such_version = || ConversionError::NoSuchVersion { kind, wanted: wanted.to_owned() };
    let to = Version::of(wanted).filter(|version| *version == Version::V1Alpha2 || !kind.is_prefix());
    let to = to.ok_or_else(no_such_version)?;
    if from == to {
        return Ok(object);
    }
    let kept = kept(&object);
    let (spec, data) = match (object.get("spec").and_then(Value::as_object), to) {
        // A pool without a spec says nothing that could be lost.
        (None, _) => (None, None),
        (Some(spec), Version::V1Alpha2) => {
            let (spec, data) = upgraded(spec, kept.as_ref())?;
            (Some(spec), data)
        }
        (Some(spec), Version::V1Alpha1) => {
            let (spec, data) = downgraded(spec, kept.as_ref());
            (Some(spec), data)
        }
    };
    if let Some(spec) = spec {
        object["spec"] = spec.into();
    }
    keep(&mut object, data.map(|spec| json!({ "apiVersion": from.api_version(), "kind": kind.kind(), "spec": spec })));
    object["apiVersion"] = to.api_version().into();
    Ok(object)
}

type Spec = Map<String, Value>;

/// The v1alpha2 spec, and the v1alpha1 spec where that one does not tell it.
fn upgraded(spec: &Spec, kept: Option<&Spec>) -> Result<(Spec, Option<Spec>), ConversionError> {
    let Meaning { filled, shared } = Meaning::of(spec).map_err(ConversionError::Subnet)?;
    let upgraded = match kept {
        Some(kept) if says_the_same(kept, &shared) => kept.clone(),
        // Somebody changed the object meanwhile. What v1alpha1 cannot say is as it was.
        Some(kept) => {
            let mut spec = kept.clone();
            spec.retain(|field, _| !SHARED.contains(&field.as_str()));
            spec.extend(shared);
            spec
        }
        None => shared,
    };
    let is_told = copied(&upgraded) == filled;
    Ok((upgraded, (!is_told).then_some(filled)))
}

/// The v1alpha1 spec, and the v1alpha2 spec where that one does not tell it.
fn downgraded(spec: &Spec, kept: Option<&Spec>) -> (Spec, Option<Spec>) {
    let meant = kept.and_then(|kept| Meaning::of(kept).ok());
    // Whoever changes the v1alpha2 object leaves the annotation as it is.
    let downgraded = match meant {
        Some(Meaning { filled, shared }) if says_the_same(spec, &shared) => filled,
        _ => copied(spec),
    };
    let is_told = upgraded(&downgraded, None).is_ok_and(|(again, _)| again == *spec);
    (downgraded, (!is_told).then(|| spec.clone()))
}

/// The shared fields of a v1alpha2 spec.
fn copied(spec: &Spec) -> Spec {
    SHARED.into_iter().filter_map(|field| Some((field.to_owned(), spec.get(field)?.clone()))).collect()
}

/// Whether the shared fields of two specs mean the same: absent, null and empty do.
fn says_the_same(a: &Spec, b: &Spec) -> bool {
    let is_empty = |value: &Value| match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Number(number) => number.as_i64() == Some(0),
        _ => false,
    };
    let value = |spec: &Spec, field: &str| spec.get(field).filter(|value| !is_empty(value)).cloned();
    SHARED.into_iter().all(|field| value(a, field) == value(b, field))
}

/// What a v1alpha1 spec means.
struct Meaning {
    /// It with start, end and prefix as the subnet has them.
    filled: Spec,
    /// The shared fields of the v1alpha2 spec.
    shared: Spec,
}

impl Meaning {
    fn of(spec: &Spec) -> Result<Self, FieldError> {
        let mut filled = spec.clone();
        if let Some(subnet) = text(spec, "subnet") {
            let net = parse::net(subnet).map_err(|error| FieldError {
                path: "spec.subnet".to_owned(),
                value: parse::short(subnet.to_owned()),
                reason: error.to_string(),
            })?;
            let (second, last_but_one) = inner_ends(net);
            fill(&mut filled, "start", second.map(|address| address.to_string().into()));
            fill(&mut filled, "end", last_but_one.map(|address| address.to_string().into()));
            fill(&mut filled, "prefix", Some(net.prefix_len().into()));
        }
        let mut addresses =
            filled.get("addresses").filter(|list| !list.is_null()).cloned().unwrap_or_else(|| json!([]));
        // One end alone becomes an entry that nobody can read: it is refused or reported by its value, not lost.
        if let (Some(entries), (Some(_), _) | (_, Some(_))) =
            (addresses.as_array_mut(), (text(&filled, "start"), text(&filled, "end")))
        {
            let end = |name| text(&filled, name).unwrap_or_default();
            entries.push(format!("{}-{}", end("start"), end("end")).into());
        }
        let mut shared = Spec::new();
        shared.insert("addresses".to_owned(), addresses);
        if let Some(gateway) = filled.get("gateway") {
            shared.insert("gateway".to_owned(), gateway.clone());
        }
        shared.insert("prefix".to_owned(), filled.get("prefix").cloned().unwrap_or_else(|| 0.into()));
        Ok(Self { filled, shared })
    }
}

/// The second address of a network and the last but one, IPv6 too. In the smallest networks they are outside of it.
fn inner_ends(net: IpNet) -> (Option<IpAddr>, Option<IpAddr>) {
    match (net.network(), net.broadcast()) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            let address = |bits: u32| IpAddr::from(bits.to_be_bytes());
            (first.to_bits().checked_add(1).map(address), last.to_bits().checked_sub(1).map(address))
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => {
            let address = |bits: u128| IpAddr::from(bits.to_be_bytes());
            (first.to_bits().checked_add(1).map(address), last.to_bits().checked_sub(1).map(address))
        }
        _ => (None, None),
    }
}

/// A string that says something.
fn text<'a>(spec: &'a Spec, field: &str) -> Option<&'a str> {
    spec.get(field).and_then(Value::as_str).filter(|text| !text.is_empty())
}

/// Sets a field that is absent, null, empty or 0.
fn fill(spec: &mut Spec, field: &str, value: Option<Value>) {
    let is_missing = match spec.get(field) {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(Value::Number(number)) => number.as_i64() == Some(0),
        Some(_) => false,
    };
    if let (true, Some(value)) = (is_missing, value) {
        spec.insert(field.to_owned(), value);
    }
}

/// The spec in the other version that an object carries along. What cannot be read is as good as none, and so is what
/// came with an object whose apiVersion somebody rewrote.
fn kept(object: &Value) -> Option<Spec> {
    let mut data: Value =
        serde_json::from_str(object["metadata"]["annotations"][CONVERSION_DATA_ANNOTATION].as_str()?).ok()?;
    // The provider that this one replaces may leave the version of its v1alpha1 data out.
    let version = data.get("apiVersion").map_or(Some(Version::V1Alpha1), |text| Version::of(text.as_str()?));
    let spec = data.get_mut("spec")?.take();
    let is_v1alpha1 = object["apiVersion"].as_str().and_then(Version::of)? == Version::V1Alpha1;
    let is_sound = match version? {
        Version::V1Alpha1 => !is_v1alpha1 && serde_json::from_value::<v1alpha1::AddressPoolSpec>(spec.clone()).is_ok(),
        Version::V1Alpha2 => is_v1alpha1 && serde_json::from_value::<v1alpha2::AddressPoolSpec>(spec.clone()).is_ok(),
    };
    match spec {
        Value::Object(spec) if is_sound => Some(spec),
        _ => None,
    }
}

/// Writes the annotation, or takes it off.
fn keep(object: &mut Value, data: Option<Value>) {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    let is_missing = metadata.get("annotations").is_none_or(Value::is_null);
    if is_missing && data.is_some() {
        metadata.insert("annotations".to_owned(), json!({}));
    }
    let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) else { return };
    if let Some(data) = data {
        annotations.insert(CONVERSION_DATA_ANNOTATION.to_owned(), data.to_string().into());
    } else if annotations.remove(CONVERSION_DATA_ANNOTATION).is_some() && annotations.is_empty() {
        metadata.remove("annotations");
    }
}
