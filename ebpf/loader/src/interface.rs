//! What a network interface is like, to say why it does not take a program in the driver.

use std::fs;
use std::path::PathBuf;

/// The kernel's number of an interface in this network namespace.
pub(crate) fn index(name: &str) -> Option<u32> {
    let socket =
        rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None).ok()?;
    rustix::net::netdevice::name_to_index(socket, name).ok()
}

fn sys(name: &str) -> PathBuf {
    PathBuf::from("/sys/class/net").join(name)
}

/// What a driver's refusal usually means, as far as it can be seen from here.
pub(crate) fn hints(name: &str, errno: Option<i32>) -> Vec<String> {
    let driver = fs::read_link(sys(name).join("device/driver"))
        .ok()
        .and_then(|path| path.file_name().map(|name| name.to_string_lossy().into_owned()));
    let mtu: Option<u32> =
        fs::read_to_string(sys(name).join("mtu")).ok().and_then(|text| text.trim().parse().ok());
    let queues = fs::read_dir(sys(name).join("queues")).map_or(0, |queues| {
        queues.flatten().filter(|queue| queue.file_name().to_string_lossy().starts_with("rx-")).count()
    });
    let mut hints = Vec::new();
    if errno == Some(libc::EOPNOTSUPP) {
        let driver = driver
            .as_deref()
            .map_or_else(|| "this device".to_owned(), |driver| format!("the driver {driver}"));
        hints.push(format!("{driver} has no XDP"));
    }
    if let Some(mtu) = mtu.filter(|mtu| *mtu > 1500) {
        hints.push(format!(
            "its MTU is {mtu}: drivers want about 3500 at most (`ip link set dev {name} mtu 1500`)"
        ));
    }
    if driver.as_deref() == Some("ena") || matches!(errno, Some(libc::ENOMEM | libc::ENOSPC | libc::EINVAL)) {
        hints.push(format!(
            "it has {queues} receive queues: some drivers want half of their channels left free (`ethtool -L {name} combined N`)"
        ));
    }
    hints
}
