//! Two hosts made of network namespaces, joined by several links: a sender with one modem per link, and a receiver.
//!
//! Link `i` (from 0) is a veth pair in subnet `10.77.i.0/24`: the sender has `.2`, the receiver `.1`. The receiver's service
//! address is 10.77.255.1; the sender reaches it over the link whose address it uses as source (policy routing, as on a
//! machine with several modems).
//!
//! Promise: names carry the process id and a counter; dropping the pair deletes both namespaces and with them all links.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};
use rustix::thread::LinkNameSpaceType;

/// The receiver's address, reachable over every link.
pub const SERVICE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 255, 1));

/// Two joined hosts.
#[derive(Debug)]
pub struct Hosts {
    sender: Namespace,
    receiver: Namespace,
}

/// A host of its own: a network namespace, gone when dropped.
#[derive(Debug)]
pub struct Namespace(String);

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = ip(&["netns", "del", &self.0]);
    }
}

/// Why namespaces cannot be made here; `None` if they can. Tries it.
pub fn unavailable() -> Option<String> {
    if !crate::harness::is_root() {
        return Some("network namespaces need root".into());
    }
    if crate::harness::find_program("ip").is_none() {
        return Some("ip is not installed (package iproute2)".into());
    }
    Hosts::new(1).err().map(|error| format!("network namespaces cannot be made: {error:#}"))
}

impl Hosts {
    /// Makes both hosts and `links` links between them.
    ///
    /// # Errors
    /// When the kernel or the rights do not allow it.
    pub fn new(links: u8) -> Result<Self> {
        let hosts = Self { sender: Namespace::new()?, receiver: Namespace::new()? };
        let (s, r) = (hosts.sender.0.as_str(), hosts.receiver.0.as_str());
        ip(&["-n", r, "addr", "add", &format!("{SERVICE}/32"), "dev", "lo"])?;
        for link in 0..links {
            let (device, table) = (Self::device(link), (100 + u32::from(link)).to_string());
            let (near, far) = (Self::sender_ip(link).to_string(), format!("10.77.{link}.1"));
            ip(&["link", "add", &device, "netns", s, "type", "veth", "peer", "name", &device, "netns", r])?;
            ip(&["-n", s, "addr", "add", &format!("{near}/24"), "dev", &device])?;
            ip(&["-n", r, "addr", "add", &format!("{far}/24"), "dev", &device])?;
            ip(&["-n", s, "link", "set", &device, "up"])?;
            ip(&["-n", r, "link", "set", &device, "up"])?;
            ip(&["-n", s, "route", "add", "default", "via", &far, "dev", &device, "table", &table])?;
            ip(&["-n", s, "rule", "add", "from", &near, "table", &table])?;
        }
        Ok(hosts)
    }

    /// The sender's address on a link.
    pub fn sender_ip(link: u8) -> IpAddr {
        Ipv4Addr::new(10, 77, link, 2).into()
    }

    /// The interface of a link, same name on both hosts.
    pub fn device(link: u8) -> String {
        format!("modem{link}")
    }

    /// Turns a command into one that runs on the sender host.
    pub fn on_sender(&self, command: &Command) -> Command {
        self.sender.wrap(command)
    }

    /// Turns a command into one that runs on the receiver host.
    pub fn on_receiver(&self, command: &Command) -> Command {
        self.receiver.wrap(command)
    }

    /// Bytes the sender has put on a link so far.
    ///
    /// # Errors
    /// When there is no such link.
    pub fn sent_bytes(&self, link: u8) -> Result<u64> {
        let device = Self::device(link);
        let output = ip(&["-j", "-s", "-n", &self.sender.0, "link", "show", "dev", &device])?;
        let links: serde_json::Value = serde_json::from_str(&output).context("ip speaks no JSON")?;
        links[0]["stats64"]["tx"]["bytes"].as_u64().with_context(|| format!("no counters of {device}"))
    }

    /// Pulls the cable of a link at the sender, or plugs it in again. The route goes with the cable, as with a real modem.
    ///
    /// # Errors
    /// When there is no such link.
    pub fn set_link_up(&self, link: u8, is_up: bool) -> Result<()> {
        let (s, device) = (self.sender.0.as_str(), Self::device(link));
        ip(&["-n", s, "link", "set", &device, if is_up { "up" } else { "down" }])?;
        if is_up {
            let (far, table) = (format!("10.77.{link}.1"), (100 + u32::from(link)).to_string());
            ip(&["-n", s, "route", "replace", "default", "via", &far, "dev", &device, "table", &table])?;
        }
        Ok(())
    }
}

impl Namespace {
    /// A host with nothing but loopback.
    ///
    /// # Errors
    /// When the kernel or the rights do not allow it.
    pub fn new() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("bg{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        ip(&["netns", "add", &name])?;
        let namespace = Self(name);
        ip(&["-n", &namespace.0, "link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// Its name, as `ip -n` takes it.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// Does something on this host: what opens sockets there opens them in this namespace, and they stay there.
    ///
    /// # Errors
    /// When the namespace cannot be entered, or what is done fails.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let file = std::fs::File::open(format!("/run/netns/{}", self.0))?;
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| {
                rustix::thread::move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                    .context("cannot enter a namespace")?;
                work()
            });
            worker.join().map_err(|_| anyhow::anyhow!("panicked in a namespace"))?
        })
    }

    /// Turns a command into one that runs on this host.
    pub fn wrap(&self, command: &Command) -> Command {
        let mut wrapped = Command::new("ip");
        wrapped.args(["netns", "exec", &self.0]).arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => wrapped.env(key, value),
                None => wrapped.env_remove(key),
            };
        }
        wrapped
    }
}

/// Runs `ip`.
///
/// # Errors
/// When it fails; the text is what it says.
pub fn ip(arguments: &[&str]) -> Result<String> {
    let output = Command::new("ip").args(arguments).stdin(Stdio::null()).output().context("cannot run ip")?;
    if !output.status.success() {
        bail!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
