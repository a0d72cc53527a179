//! What Leases say, as values: their names, who holds them, since which epoch and for how long.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// What every holder of ours starts with. A host name cannot contain a slash, so the identities that the Go original
/// takes (`<host>_<uuid>`) cannot look like ours.
const OURS: &str = "capi-ipam/";
const LEASE_PREFIX: &str = "capi-ipam-";
/// Names of objects have at most 253 characters; this is what a ring of eight digits leaves for a member.
const LONGEST_MEMBER: usize = 253 - "capi-ipam-01234567-member-".len();
/// A UUID has 36; a static pod's uid is a hash of 32.
const LONGEST_PART: usize = 64;
/// The annotation of a member Lease whose replica is on its way out: it still works on what it holds, and gets no more.
pub const LEAVING_ANNOTATION: &str = "ipam.cluster.x-k8s.io/leaving";

/// Why a text is not a name or an identity of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A member's name has to fit into a Lease's name.
    #[error("member name {0:?} is not a DNS subdomain of at most {LONGEST_MEMBER} characters")]
    Member(String),
    /// Not of the form that replicas of ours write.
    #[error("holder identity {0:?} is not of the form capi-ipam/<namespace>/<pod>_<pod uid or ->_<instance>")]
    Form(String),
    /// A part of an identity has characters that it cannot have.
    #[error("{part} {value:?} of a holder identity is empty, too long or has other characters than {allowed}")]
    Part {
        /// Which part.
        part: &'static str,
        /// What it is.
        value: String,
        /// What it may consist of.
        allowed: &'static str,
    },
}

/// The name of a replica: its Pod's, or what it chose itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member(String);

impl Member {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Member {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let is_label = |label: &str| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        };
        if name.len() > LONGEST_MEMBER || !name.split('.').all(is_label) {
            return Err(Error::Member(name.to_owned()));
        }
        Ok(Self(name.to_owned()))
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One run of one replica.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    namespace: String,
    member: Member,
    pod_uid: Option<String>,
    instance: String,
}

impl Identity {
    /// The identity of the run `instance` (random, new with every start of the process) of a replica. `pod_uid` only
    /// if that Pod was found to exist with that uid.
    pub fn new(namespace: &str, member: Member, pod_uid: Option<&str>, instance: &str) -> Result<Self, Error> {
        Ok(Self {
            namespace: part("namespace", namespace)?,
            member,
            pod_uid: pod_uid.map(|uid| part("pod uid", uid)).transpose()?,
            instance: part("instance", instance)?,
        })
    }

    /// The name of the replica.
    pub fn member(&self) -> &Member {
        &self.member
    }

    /// The namespace of the replica.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The uid of its Pod, if that says anything.
    pub fn pod_uid(&self) -> Option<&str> {
        self.pod_uid.as_deref()
    }

    /// Which run of the replica it is.
    pub fn instance(&self) -> &str {
        &self.instance
    }
}

/// A part of an identity: no part can contain a separator, and a lone dash is the absent pod uid.
fn part(part: &'static str, value: &str) -> Result<String, Error> {
    let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if value.is_empty() || value == "-" || value.len() > LONGEST_PART || !value.bytes().all(is_allowed) {
        return Err(Error::Part { part, value: value.to_owned(), allowed: "a-z, 0-9 and -" });
    }
    Ok(value.to_owned())
}

impl FromStr for Identity {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let form = || Error::Form(text.to_owned());
        let (namespace, run) = text.strip_prefix(OURS).and_then(|rest| rest.split_once('/')).ok_or_else(form)?;
        let [member, pod_uid, instance] =
            <[&str; 3]>::try_from(run.split('_').collect::<Vec<_>>()).map_err(|_| form())?;
        Self::new(namespace, member.parse()?, Some(pod_uid).filter(|uid| *uid != "-"), instance)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { namespace, member, pod_uid, instance } = self;
        write!(f, "{OURS}{namespace}/{member}_{}_{instance}", pod_uid.as_deref().unwrap_or("-"))
    }
}

/// Who holds a Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Nobody: the Lease is free.
    Nobody,
    /// A replica of ours.
    Ours(Identity),
    /// Somebody else, as it names itself.
    Foreign(String),
}

impl Holder {
    /// What `spec.holderIdentity` says; absent is the same as empty.
    pub fn parse(identity: &str) -> Self {
        match identity.parse() {
            Ok(ours) => Self::Ours(ours),
            Err(_) if identity.is_empty() => Self::Nobody,
            Err(_) => Self::Foreign(identity.to_owned()),
        }
    }

    /// Our replica, if it is one.
    pub fn ours(&self) -> Option<&Identity> {
        match self {
            Self::Ours(identity) => Some(identity),
            Self::Nobody | Self::Foreign(_) => None,
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody => Ok(()),
            Self::Ours(identity) => identity.fmt(f),
            Self::Foreign(identity) => f.write_str(identity),
        }
    }
}

/// A Lease as it was observed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// `metadata.uid`: another one is another object, whatever its name is.
    pub uid: String,
    /// `metadata.resourceVersion`, a number that grows with every change of any Lease.
    pub version: u64,
    /// `spec.holderIdentity`.
    pub holder: Holder,
    /// `spec.leaseTransitions`: grows with every new holder.
    pub epoch: u32,
    /// `spec.leaseDurationSeconds`.
    pub duration: Duration,
    /// [`LEAVING_ANNOTATION`].
    pub leaving: bool,
}

/// What to write into a Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// `spec.holderIdentity`, empty for nobody.
    pub holder: Option<Identity>,
    /// `spec.leaseTransitions`.
    pub epoch: u32,
    /// `spec.leaseDurationSeconds`.
    pub duration: Duration,
    /// [`LEAVING_ANNOTATION`].
    pub leaving: bool,
}

/// Which Lease of a ring.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LeaseKey {
    /// A replica's sign of life.
    Member(Member),
    /// The right to work on a shard.
    Shard(u16),
}

/// How the Leases of a ring are called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseNames {
    ring: String,
    shards: u16,
}

impl LeaseNames {
    /// Of a ring as [`ring_name`](super::ring::ring_name) calls it, with this many shards.
    pub fn new(ring: &str, shards: u16) -> Self {
        Self { ring: ring.to_owned(), shards }
    }

    /// How many shards there are.
    pub fn shards(&self) -> u16 {
        self.shards
    }

    /// The name of a Lease. Numbers of shards are padded, so that Leases sort.
    pub fn render(&self, key: &LeaseKey) -> String {
        let ring = &self.ring;
        match key {
            LeaseKey::Member(member) => format!("{LEASE_PREFIX}{ring}-member-{member}"),
            LeaseKey::Shard(shard) => {
                let width = self.shards.saturating_sub(1).to_string().len();
                format!("{LEASE_PREFIX}{ring}-shard-{shard:0width$}")
            }
        }
    }

    /// Which Lease of this ring has that name; `None` if it is none of them.
    pub fn parse(&self, name: &str) -> Option<LeaseKey> {
        let rest = name.strip_prefix(LEASE_PREFIX)?.strip_prefix(self.ring.as_str())?;
        let key = if let Some(member) = rest.strip_prefix("-member-") {
            LeaseKey::Member(member.parse().ok()?)
        } else {
            let shard = rest.strip_prefix("-shard-")?.parse().ok().filter(|shard| *shard < self.shards)?;
            LeaseKey::Shard(shard)
        };
        (self.render(&key) == name).then_some(key)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn member(name: &str) -> Member {
        name.parse().expect("a member's name")
    }

    #[test]
    fn an_identity_says_where_and_which_run() {
        let with_pod = Identity::new("capi-system", member("manager-0"), Some("1b4e28ba-2fa1"), "x7").expect("parts");
        assert_eq!(with_pod.to_string(), "capi-ipam/capi-system/manager-0_1b4e28ba-2fa1_x7");
        let without = Identity::new("capi-system", member("manager-0"), None, "x7").expect("parts");
        assert_eq!(without.to_string(), "capi-ipam/capi-system/manager-0_-_x7");
        assert_eq!(Holder::parse(&without.to_string()), Holder::Ours(without));
    }

    #[test]
    fn the_identities_of_others_are_foreign() {
        for foreign in [
            "manager-0_6a5d8c2e-3b1f-4f0e-9d55-0c8a2f7e1b11",
            "capi-ipam",
            "capi-ipam/ns/pod",
            "capi-ipam/ns/pod_-",
            "capi-ipam/ns/pod_-_",
            "capi-ipam/ns/pod_-_-",
            "capi-ipam/ns/pod__x",
            "capi-ipam/ns/pod_-_x_y",
            "capi-ipam//pod_-_x",
            "capi-ipam/ns/a/pod_-_x",
            "capi-ipam/ns/Pod_-_x",
            "capi-ipam/ns/pod_-_x\n",
            " capi-ipam/ns/pod_-_x",
        ] {
            assert_eq!(Holder::parse(foreign), Holder::Foreign(foreign.to_owned()));
        }
        assert_eq!(Holder::parse(""), Holder::Nobody);
    }

    #[test]
    fn a_member_has_a_name_that_fits_into_a_lease_name() {
        let longest = "a".repeat(LONGEST_MEMBER);
        let names = LeaseNames::new("01234567", 64);
        assert_eq!(names.render(&LeaseKey::Member(member(&longest))).len(), 253);
        for bad in ["", "-a", "a-", "a..b", "A", "a_b", "a/b", &format!("{longest}a")] {
            assert_eq!(bad.parse::<Member>(), Err(Error::Member(bad.to_owned())));
        }
    }

    #[test]
    fn the_names_of_leases_are_read_back() {
        let names = LeaseNames::new("0badcafe", 64);
        assert_eq!(names.render(&LeaseKey::Shard(7)), "capi-ipam-0badcafe-shard-07");
        assert_eq!(names.render(&LeaseKey::Member(member("m.0"))), "capi-ipam-0badcafe-member-m.0");
        for key in [LeaseKey::Shard(0), LeaseKey::Shard(63), LeaseKey::Member(member("m-0"))] {
            assert_eq!(names.parse(&names.render(&key)), Some(key));
        }
        for other in [
            "capi-ipam-0badcafe-shard-7",
            "capi-ipam-0badcafe-shard-64",
            "capi-ipam-0badcafe-shard-+7",
            "capi-ipam-0badcafe-shard-007",
            "capi-ipam-0badcaff-shard-07",
            "capi-ipam-0badcafe-member-",
            "7bb7acb4.ipam.cluster.x-k8s.io",
        ] {
            assert_eq!(names.parse(other), None, "{other}");
        }
        assert_eq!(LeaseNames::new("r", 1).render(&LeaseKey::Shard(0)), "capi-ipam-r-shard-0");
        assert_eq!(LeaseNames::new("r", 1000).render(&LeaseKey::Shard(7)), "capi-ipam-r-shard-007");
    }

    proptest! {
        #[test]
        fn an_identity_is_read_back(
            namespace in "[a-z]([a-z0-9-]{0,20}[a-z0-9])?", pod in "[a-z0-9]([a-z0-9.]{0,9}[a-z0-9])?",
            uid in prop::option::of("[0-9a-f]{8}-[0-9a-f]{4}"), instance in "[a-z0-9]{1,12}",
        ) {
            prop_assume!(!pod.contains(".."));
            let identity = Identity::new(&namespace, member(&pod), uid.as_deref(), &instance).expect("parts");
            prop_assert_eq!(identity.to_string().parse::<Identity>(), Ok(identity));
        }

        #[test]
        fn a_text_that_is_read_as_ours_is_what_ours_write(text in "capi-ipam/[a-z/_-]{0,12}_[a-z-]{0,3}_[a-z_]{0,3}") {
            if let Ok(identity) = text.parse::<Identity>() {
                prop_assert_eq!(identity.to_string(), text);
            }
        }
    }
}
