//! Which addresses a connection's host may have: the outer world, and of the inner one only what the Lakehouse names.
//!
//! A host of the outer world decides itself what its name means. Should it answer with the address of a metadata service or of a neighbour in
//! the cluster, its connection would lead there, with our place in the network. So names are looked up here, and what is connected to is one
//! of the addresses that were checked: there is no second look-up that could answer differently.
//!
//! | addresses | are reached |
//! |---|---|
//! | public | always |
//! | private, shared, loopback | where `baseUrl` says so itself: by such an address, or by a name that only the inner world knows |
//! | link-local, unspecified, multicast, reserved | never by that |
//! | in one of the connection's `allowedNetworks` | always |
//!
//! The special addresses are those of IANA's registries (RFC 6890). An IPv4 address within an IPv6 address is judged as itself. A proxy that the
//! environment names is the choice of whoever runs the process, and looks names up itself: its own address is not judged.

use std::{
    error::Error,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use ipnet::IpNet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

/// What an address is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Scope {
    /// Of the outer world.
    Public,
    /// Of a network, cluster or machine.
    Private,
    /// Of no host that a source could be.
    Special,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Public => "public",
            Self::Private => "private",
            Self::Special => "link-local, multicast or reserved",
        })
    }
}

/// Why no request is sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{host} has the {scope} address {address}, which only the Lakehouse can allow, by allowedNetworks of the connection")]
pub struct Denied {
    host: String,
    address: IpAddr,
    scope: Scope,
}

/// What one connection may reach.
#[derive(Debug)]
pub struct Egress {
    host: String,
    most: Scope,
    networks: Vec<IpNet>,
}

impl Egress {
    /// For the host of `home`, which the Lakehouse names, and `networks` in CIDR notation.
    ///
    /// # Errors
    /// A line that names the network that is none.
    pub fn new(home: &Url, networks: &[String]) -> Result<Arc<Self>, String> {
        let inner = match home.host() {
            Some(Host::Domain(name)) => is_inner(name),
            Some(Host::Ipv4(_) | Host::Ipv6(_)) => true,
            None => false,
        };
        Self::up_to(if inner { Scope::Private } else { Scope::Public }, home, networks)
    }

    /// For a host that is of the outer world, however it is called.
    ///
    /// # Errors
    /// As of [`Egress::new`].
    pub fn outer(home: &Url, networks: &[String]) -> Result<Arc<Self>, String> {
        Self::up_to(Scope::Public, home, networks)
    }

    fn up_to(most: Scope, home: &Url, networks: &[String]) -> Result<Arc<Self>, String> {
        let network = |text: &String| text.parse().map_err(|_| format!("allowedNetworks: `{text}` is not a network"));
        Ok(Arc::new(Self {
            host: home.host_str().unwrap_or_default().to_owned(),
            most,
            networks: networks.iter().map(network).collect::<Result<_, String>>()?,
        }))
    }

    /// Checks the address that stands in `url`; names are checked when they are looked up.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn check(&self, url: &Url) -> Result<(), Denied> {
        match url.host() {
            Some(Host::Ipv4(address)) => self.check_address(address.into()),
            Some(Host::Ipv6(address)) => self.check_address(address.into()),
            Some(Host::Domain(_)) | None => Ok(()),
        }
    }

    fn check_address(&self, address: IpAddr) -> Result<(), Denied> {
        let plain = unwrapped(address);
        let scope = scope(plain);
        if scope <= self.most || self.networks.iter().any(|network| network.contains(&plain) || network.contains(&address)) {
            return Ok(());
        }
        Err(Denied { host: self.host.clone(), address, scope })
    }

    /// Those of `found` that may be connected to.
    fn allowed(&self, name: &str, found: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, Denied> {
        if !name.eq_ignore_ascii_case(&self.host) {
            // Requests go to the one host; another name is that of a proxy.
            return Ok(found);
        }
        let (mut allowed, mut first) = (Vec::new(), None);
        for address in found {
            match self.check_address(address.ip()) {
                Ok(()) => allowed.push(address),
                Err(denied) => first = first.or(Some(denied)),
            }
        }
        match first {
            Some(denied) if allowed.is_empty() => Err(denied),
            _ => Ok(allowed),
        }
    }
}

/// Looks a name up and hands out the addresses that may be connected to.
#[derive(Clone, Debug)]
pub struct Resolver(pub Arc<Egress>);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let egress = self.0.clone();
        Box::pin(async move {
            // The port is put in by the client.
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let allowed = egress.allowed(name.as_str(), found)?;
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

/// The [`Denied`] that a request failed by, if it was that.
pub fn denied<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e Denied> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(denied) = error.downcast_ref() {
            return Some(denied);
        }
        cause = error.source();
    }
    None
}

/// Whether no public DNS answers for `name`: it has one label, or ends in what is set aside for local use (RFC 6761, RFC 6762, RFC 8375, ICANN's
/// `internal`) or in the `svc` of a cluster.
fn is_inner(name: &str) -> bool {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let mut labels = name.rsplit('.');
    matches!(
        (labels.next(), labels.next()),
        (Some(_), None) | (Some("localhost" | "local" | "internal" | "svc"), _) | (Some("arpa"), Some("home"))
    )
}

/// The IPv4 address that an IPv6 address stands for (RFC 4291, RFC 6052, RFC 3056); others as they are.
fn unwrapped(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let bytes = v6.octets();
    let last = || Ipv4Addr::new(bytes[12], bytes[13], bytes[14], bytes[15]);
    match v6.segments() {
        [0, 0, 0, 0, 0, 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => last().into(),
        // The unspecified address and loopback have this form too, but stand for themselves.
        [0, 0, 0, 0, 0, 0, high, low] if (high, low) > (0, 1) => last().into(),
        [0x2002, ..] => Ipv4Addr::new(bytes[2], bytes[3], bytes[4], bytes[5]).into(),
        _ => address,
    }
}

fn scope(address: IpAddr) -> Scope {
    match address {
        IpAddr::V4(address) => scope_v4(address),
        IpAddr::V6(address) => scope_v6(address),
    }
}

fn scope_v4(address: Ipv4Addr) -> Scope {
    match address.octets() {
        // Multicast, reserved, broadcast.
        [224..=255, ..] => Scope::Special,
        [10 | 127, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] => Scope::Private,
        // This network, link-local, protocol assignments, documentation, benchmarks.
        [0, ..] | [169, 254, ..] | [192, 0, 0 | 2, _] | [198, 18 | 19, ..] | [198, 51, 100, _] | [203, 0, 113, _] => Scope::Special,
        _ => Scope::Public,
    }
}

fn scope_v6(address: Ipv6Addr) -> Scope {
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 1] | [0xfc00..=0xfdff, ..] => Scope::Private,
        // Only 2000::/3 is given out, of which these are Teredo and other protocols, and documentation.
        [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => Scope::Special,
        [0x2000..=0x3fff, ..] => Scope::Public,
        _ => Scope::Special,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn egress(home: &str, networks: &[&str]) -> Arc<Egress> {
        let networks: Vec<String> = networks.iter().map(|network| (*network).to_owned()).collect();
        Egress::new(&home.parse().unwrap(), &networks).unwrap()
    }

    /// Whether `address` may be connected to when the host's name is answered with it.
    fn reaches(egress: &Egress, address: &str) -> bool {
        egress.check_address(address.parse().unwrap()).is_ok()
    }

    const PUBLIC: [&str; 6] = ["1.1.1.1", "172.15.0.1", "172.32.0.1", "100.63.0.1", "2606:4700::1111", "::ffff:8.8.8.8"];
    const PRIVATE: [&str; 13] = [
        "10.0.0.1",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "100.64.0.1",
        "127.0.0.1",
        "127.9.9.9",
        "::1",
        "fc00::1",
        "fd12:3456::1",
        "::ffff:10.0.0.1",
        "64:ff9b::10.0.0.1",
        "2002:7f00:1::1",
    ];
    const SPECIAL: [&str; 17] = [
        "169.254.169.254",
        "169.254.0.1",
        "0.0.0.0",
        "0.1.2.3",
        "224.0.0.1",
        "255.255.255.255",
        "240.0.0.1",
        "fe80::1",
        "febf::1",
        "::",
        "ff02::1",
        "fec0::1",
        "::ffff:169.254.169.254",
        "::169.254.169.254",
        "64:ff9b::169.254.169.254",
        "64:ff9b:1::a9fe:a9fe",
        "2001:0:a9fe:a9fe::1",
    ];

    #[test]
    fn a_host_of_the_outer_world_has_public_addresses_only() {
        let outer = egress("https://api.example.com/v1", &[]);
        assert!(PUBLIC.iter().all(|address| reaches(&outer, address)));
        for address in PRIVATE.iter().chain(&SPECIAL) {
            assert!(!reaches(&outer, address), "{address}");
        }
    }

    #[test]
    fn a_host_that_the_lakehouse_names_within_the_cluster_may_be_there() {
        let homes = [
            "http://replay",
            "http://replay.team.svc:8080",
            "http://replay.team.svc.cluster.local.",
            "http://LOCALHOST:1",
            "http://10.1.2.3",
        ];
        for home in homes {
            let inner = egress(home, &[]);
            assert!(PUBLIC.iter().chain(&PRIVATE).all(|address| reaches(&inner, address)), "{home}");
            for address in SPECIAL {
                assert!(!reaches(&inner, address), "{home} {address}");
            }
        }
        for home in ["http://svc.example.com", "http://local.example", "http://internal.evil.org", "http://localhost.evil.org"] {
            assert!(!reaches(&egress(home, &[]), "10.0.0.1"), "{home}");
        }
    }

    #[test]
    fn networks_allow_what_is_in_them_and_no_more() {
        let some = egress("https://crm.example.com", &["10.20.0.0/16", "fd00:1::/64", "169.254.7.7/32"]);
        let allowed = ["10.20.255.1", "::ffff:10.20.0.9", "fd00:1::5", "169.254.7.7", "9.9.9.9"];
        assert!(allowed.iter().all(|address| reaches(&some, address)));
        assert!(["10.21.0.1", "fd00:2::5", "169.254.169.254", "127.0.0.1"].iter().all(|address| !reaches(&some, address)));
        assert!(Egress::new(&"http://h".parse().unwrap(), &["10.0.0.0/33".to_owned()]).unwrap_err().contains("10.0.0.0/33"));
    }

    #[test]
    fn an_address_in_a_url_is_judged_however_it_is_written() {
        let metadata = [
            "http://169.254.169.254/",
            "http://2852039166/",
            "http://0xa9.0xfe.0xa9.0xfe/",
            "http://0251.0376.0251.0376/",
            "http://[::ffff:a9fe:a9fe]/",
            "http://[64:ff9b::a9fe:a9fe]/",
            "http://[fe80::1]/",
            "http://0/",
            "http://\u{ff11}\u{ff16}\u{ff19}.254.169.254/",
        ];
        for url in metadata {
            let url: Url = url.parse().unwrap();
            let denied = egress(url.as_str(), &[]).check(&url).unwrap_err();
            assert_eq!(denied.scope, Scope::Special, "{url}");
        }
        let local: Url = "http://127.1:9000/".parse().unwrap();
        assert_eq!(egress(local.as_str(), &[]).check(&local), Ok(()));
    }

    #[test]
    fn of_several_answers_those_that_may_be_are_used() {
        let outer = egress("https://api.example.com", &[]);
        let answers = |addresses: &[&str]| addresses.iter().map(|a| SocketAddr::new(a.parse().unwrap(), 0)).collect::<Vec<_>>();
        let kept = outer.allowed("api.example.com", answers(&["10.0.0.1", "1.1.1.1"])).unwrap();
        assert_eq!(kept, answers(&["1.1.1.1"]));
        let denied = outer.allowed("API.example.com", answers(&["169.254.169.254", "10.0.0.1"])).unwrap_err();
        assert_eq!(
            denied.to_string(),
            "api.example.com has the link-local, multicast or reserved address 169.254.169.254, which only the Lakehouse can allow, by \
             allowedNetworks of the connection"
        );
        assert_eq!(outer.allowed("proxy.corp", answers(&["10.0.0.1"])), Ok(answers(&["10.0.0.1"])));
    }
}
