//! What the kernel tells about a process and about all processors, from `/proc`.
//!
//! Promise: a figure that cannot be read is `None`, never 0.

use std::fs;
use std::path::PathBuf;

/// Processor time of a process, its kernel work included, in ns: the sum of its threads as the scheduler counts it, or,
/// where the kernel does not tell, user and system time in ticks of 10 ms.
pub fn cpu_ns(pid: u32) -> Option<u64> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let exact = threads
        .map(|thread| {
            let text = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<u64>().ok()
        })
        .sum::<Option<u64>>();
    exact.or_else(|| {
        let (user, system) = user_system_ticks(pid)?;
        Some((user + system) * 1_000_000_000 / ticks_per_s())
    })
}

/// User and system time of a process since its start, in ticks.
pub fn user_system_ticks(pid: u32) -> Option<(u64, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let user = fields.nth(11)?.parse().ok()?;
    Some((user, fields.next()?.parse().ok()?))
}

/// Ticks of `/proc` per second.
pub fn ticks_per_s() -> u64 {
    rustix::param::clock_ticks_per_second().max(1)
}

/// A field of `/proc/PID/status` in bytes, such as `VmRSS`.
pub fn memory_bytes(pid: u32, field: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// Kernel memory in slabs, in bytes, of the whole machine: sockets and descriptors live there.
pub fn slab_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Slab:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// Times of one processor or of all, in ticks since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTimes {
    /// User, nice and system.
    pub busy: u64,
    /// Idle and waiting for a disk.
    pub idle: u64,
    /// Interrupts.
    pub irq: u64,
    /// Soft interrupts, wherever they ran; sampled by the timer unless the kernel accounts them exactly.
    pub softirq: u64,
    /// Taken by the hypervisor.
    pub steal: u64,
}

impl CpuTimes {
    /// Of processor `cpu`, or of all.
    pub fn read(cpu: Option<usize>) -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/stat").ok()?, cpu)
    }

    fn parse(text: &str, cpu: Option<usize>) -> Option<Self> {
        let name = cpu.map_or_else(|| "cpu".to_owned(), |cpu| format!("cpu{cpu}"));
        let line = text.lines().find(|line| line.split(' ').next() == Some(&name))?;
        let fields: Vec<u64> =
            line.split_whitespace().skip(1).map(str::parse).collect::<Result<_, _>>().ok()?;
        let [user, nice, system, idle, wait, irq, softirq, steal, ..] = fields[..] else { return None };
        Some(Self { busy: user + nice + system, idle: idle + wait, irq, softirq, steal })
    }

    /// What has passed since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            busy: self.busy.saturating_sub(earlier.busy),
            idle: self.idle.saturating_sub(earlier.idle),
            irq: self.irq.saturating_sub(earlier.irq),
            softirq: self.softirq.saturating_sub(earlier.softirq),
            steal: self.steal.saturating_sub(earlier.steal),
        }
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.busy + self.idle + self.irq + self.softirq + self.steal
    }
}

/// Counters of a network device as a process sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// Bytes it received.
    pub rx_bytes: u64,
    /// Packets it received; a segmented one counts once.
    pub rx_packets: u64,
    /// Bytes it sent.
    pub tx_bytes: u64,
    /// Packets it sent; a segmented one counts once.
    pub tx_packets: u64,
}

/// The counters of a device in the network namespace of a process.
pub fn device(pid: u32, name: &str) -> Option<Device> {
    let text = fs::read_to_string(format!("/proc/{pid}/net/dev")).ok()?;
    let line = text.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'))?;
    let fields: Vec<u64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    Some(Device {
        rx_bytes: *fields.first()?,
        rx_packets: *fields.get(1)?,
        tx_bytes: *fields.get(8)?,
        tx_packets: *fields.get(9)?,
    })
}

/// Datagrams dropped at full receive buffers in the network namespace of a process, over all its sockets.
pub fn udp_buffer_drops(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/net/snmp")).ok()?;
    let mut lines = text.lines().filter(|line| line.starts_with("Udp:"));
    let names = lines.next()?.split_whitespace();
    let values = lines.next()?.split_whitespace();
    names.zip(values).find(|(name, _)| *name == "RcvbufErrors")?.1.parse().ok()
}

/// A one-line file, trimmed.
pub fn line(path: impl Into<PathBuf>) -> Option<String> {
    Some(fs::read_to_string(path.into()).ok()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_can_be_read() {
        let pid = std::process::id();
        let before = cpu_ns(pid).unwrap();
        let mut sum = 0_u64;
        while cpu_ns(pid).unwrap() <= before {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(memory_bytes(pid, "VmRSS").unwrap() > 100_000);
        assert!(user_system_ticks(pid).is_some() && udp_buffer_drops(pid).is_some());
        assert!(device(pid, "lo").is_some());
        assert_eq!(device(pid, "no-such-device"), None);
        assert!(CpuTimes::read(None).unwrap().total() > 0);
        assert_eq!(CpuTimes::read(Some(9999)), None);
    }

    #[test]
    fn processor_times() {
        let text = "cpu  1 2 3 4 5 6 7 8 0 0\ncpu0 10 0 0 1 0 0 0 0 0 0\ncpu1 1 1 1 9 1 0 2 3 0 0\nintr 5\n";
        let one = CpuTimes::parse(text, Some(1)).unwrap();
        assert_eq!((one.busy, one.idle, one.softirq, one.steal, one.total()), (3, 10, 2, 3, 18));
        assert_eq!(CpuTimes::parse(text, None).unwrap().busy, 6);
    }
}
