//! The life of a gate: made or found, attached, replaced, detached.
//!
//! Promises: a gate that is attached goes on when this process ends, with the policy it had; attaching, replacing and detaching
//! are each one step that loses no packet; everything but writing maps needs `CAP_BPF` and `CAP_NET_ADMIN`, which are asked for
//! first, with a message that names them.

use std::fmt;
use std::fs;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;

use aya::maps::Map;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::{XdpLink, XdpMode};
use aya::programs::{ProgramError, ProgramInfo, SkReuseport, Xdp};
use aya::{Ebpf, EbpfLoader};
use aya_obj::programs::XdpAttachType;
use bondgate_ebpf_common::abi::{self, SHARDS_MAX};

use crate::maps::{INFO, Info, LAYOUT, Maps, PROGRAM_MAPS};
use crate::pins::Pins;
use crate::{GateError, features, interface, sys};

/// Where in the driver's path a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// In the driver, before a socket buffer exists.
    Native,
    /// In the kernel's receive path, for any driver.
    Generic,
}

impl Mode {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which mode is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Native, and generic where the driver refuses.
    Auto,
    /// This one.
    Exactly(Mode),
}

/// How an attachment came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The mode it is in.
    pub mode: Mode,
    /// It was attached already.
    pub was_attached: bool,
    /// Why it is not native, if that was tried.
    pub fallback: Option<String>,
}

/// An interface the gate is attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Name of the interface when it was attached.
    pub interface: String,
    /// The mode.
    pub mode: Mode,
    /// Number of the program in the kernel.
    pub program_id: u32,
    /// The interface still exists.
    pub is_alive: bool,
    /// It is the program that further interfaces would get.
    pub is_current: bool,
}

/// What is pinned in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pinned {
    /// Which version of bondgate it is from.
    pub info: Info,
    /// Its map layout is the one of this binary.
    pub is_readable: bool,
    /// Its program is the one of this binary.
    pub is_own: bool,
    /// Where it is attached.
    pub attachments: Vec<Attachment>,
}

/// Maps, and programs if they were loaded by this process.
pub struct Gate {
    pub(crate) maps: Maps,
    pins: Option<Pins>,
    /// The pin of the maps that are open here; another number is another gate.
    info_id: Option<u32>,
    programs: Option<Ebpf>,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("pins", &self.pins).finish_non_exhaustive()
    }
}

impl Gate {
    /// Maps and programs that end with this process: for steering without a gate, and for tests.
    ///
    /// # Errors
    /// Missing rights, or the kernel does not take the programs.
    pub fn load() -> Result<Self, GateError> {
        require(features::missing_to_load())?;
        let mut programs = load_object(None)?;
        let maps = Maps::create(None, |name| take_map(&mut programs, name))?;
        Ok(Self { maps, pins: None, info_id: None, programs: Some(programs) })
    }

    /// The gate that is pinned in `dir`, or a new one there. A new one lets everything pass until a configuration is written.
    ///
    /// # Errors
    /// Missing rights or BPF file system, the kernel does not take the programs, or what is pinned is of another layout.
    pub fn open(dir: &Path) -> Result<Self, GateError> {
        require(features::missing_to_load())?;
        features::make_dir(dir)?;
        let pins = Pins::new(dir);
        let _lock = pins.lock()?;
        let maps = match Maps::open(&pins) {
            Err(GateError::NotThere(_)) => {
                pins.remove_maps()?;
                make_maps(&pins)?
            }
            maps => maps?,
        };
        let mut programs = load_object(Some(&pins))?;
        if !pins.program().exists() {
            pin_program(xdp(&mut programs)?, &pins)?;
        }
        Ok(Self { maps, info_id: info_id(&pins), pins: Some(pins), programs: Some(programs) })
    }

    /// The maps of the gate that is pinned in `dir`, to read and to write. Needs no capability, only access to the files.
    ///
    /// # Errors
    /// There is none, it is of another layout, or it cannot be opened.
    pub fn open_pinned(dir: &Path) -> Result<Self, GateError> {
        let pins = Pins::new(dir);
        let maps = Maps::open(&pins)?;
        Ok(Self { maps, info_id: info_id(&pins), pins: Some(pins), programs: None })
    }

    /// Whether a gate is pinned in `dir`. Costs one system call.
    pub fn is_there(dir: &Path) -> bool {
        Pins::new(dir).map(INFO).exists()
    }

    /// Whether what is pinned now is still what this process has open.
    pub fn is_current(&self) -> bool {
        match (&self.pins, self.info_id) {
            (Some(pins), Some(id)) => sys::map_id(&pins.map(INFO)).is_ok_and(|found| found == id),
            (Some(_), None) => false,
            (None, _) => true,
        }
    }

    /// What is pinned in `dir` and where it is attached. Needs no capability.
    ///
    /// # Errors
    /// There is nothing, or it cannot be read.
    pub fn pinned(dir: &Path) -> Result<Pinned, GateError> {
        let pins = Pins::new(dir);
        let info = Maps::info_of(&pins)?;
        let attachments = attachments(&pins)?;
        Ok(Pinned {
            is_readable: info.layout == LAYOUT,
            is_own: info.object == crate::object::sha256(),
            info,
            attachments,
        })
    }

    /// Attaches the pinned program to an interface. One that has it already is left as it is.
    ///
    /// # Errors
    /// There is no such interface, another program has it, or the driver takes neither mode.
    pub fn attach(&mut self, name: &str, wanted: Wanted) -> Result<Attached, GateError> {
        let pins = self.pins.clone().ok_or_else(|| GateError::Load("it is not pinned".into()))?;
        let _lock = pins.lock()?;
        let index = interface::index(name).ok_or_else(|| GateError::NoInterface(name.to_owned()))?;
        for (interface, mode, path) in pins.links()? {
            if interface != name {
                continue;
            }
            if sys::xdp_link(&path).is_ok_and(|link| link.interface_index == index) {
                return Ok(Attached { mode, was_attached: true, fallback: None });
            }
            // Of an interface that is gone and came back under the same name.
            fs::remove_file(&path).map_err(GateError::pin(&path))?;
        }
        let mut program = Xdp::from_pin(pins.program(), XdpAttachType::Interface)
            .map_err(|error| GateError::load("its pinned program")(&error))?;
        let native = match wanted {
            Wanted::Exactly(Mode::Generic) => None,
            Wanted::Auto | Wanted::Exactly(Mode::Native) => {
                Some(link(&mut program, name, index, Mode::Native))
            }
        };
        let (mode, link, fallback) = match (native, wanted) {
            (Some(Ok(link)), _) => (Mode::Native, link, None),
            (Some(Err(error @ GateError::Attach { .. })), Wanted::Auto) => {
                let GateError::Attach { why, .. } = &error else { return Err(error) };
                (Mode::Generic, link(&mut program, name, index, Mode::Generic)?, Some(why.clone()))
            }
            (Some(Err(error)), _) => return Err(error),
            (None, _) => (Mode::Generic, link(&mut program, name, index, Mode::Generic)?, None),
        };
        let dir = pins.interface_dir(name);
        fs::create_dir_all(&dir).map_err(GateError::pin(&dir))?;
        let path = pins.link(name, mode);
        link.pin(&path).map_err(|error| GateError::Load(format!("{}: {error}", path.display())))?;
        Ok(Attached { mode, was_attached: false, fallback })
    }

    /// Puts this binary's program in the place of the one that is attached, on every interface and without a packet between. The
    /// maps stay; if this binary has another layout, they are new and let everything pass until a configuration is written.
    ///
    /// # Errors
    /// Missing rights, nothing pinned, or the kernel does not take the program.
    pub fn replace(dir: &Path) -> Result<Vec<Attachment>, GateError> {
        require(features::missing_to_load())?;
        let pins = Pins::new(dir);
        if !Self::is_there(dir) {
            return Err(GateError::NotThere(dir.to_owned()));
        }
        let _lock = pins.lock()?;
        match Maps::open(&pins) {
            Ok(mut maps) => {
                relink(&pins, &pins)?;
                maps.set_info()?;
            }
            Err(GateError::Layout { .. }) => {
                let beside = pins.beside();
                beside.remove_maps()?;
                make_maps(&beside)?;
                relink(&beside, &pins)?;
                beside.put_in_place()?;
            }
            Err(error) => return Err(error),
        }
        attachments(&pins)
    }

    /// Detaches the gate from an interface, or from all. With the last one everything that is pinned goes. Returns the
    /// interfaces it was attached to.
    ///
    /// # Errors
    /// Nothing is pinned, the interface is not among them, or a pin cannot be removed.
    pub fn detach(dir: &Path, interface: Option<&str>) -> Result<Vec<String>, GateError> {
        if !dir.exists() {
            return Err(GateError::NotThere(dir.to_owned()));
        }
        let pins = Pins::new(dir);
        let _lock = pins.lock()?;
        let links = pins.links()?;
        let mut detached = Vec::new();
        let mut left = 0;
        for (name, _, path) in &links {
            if interface.is_none_or(|wanted| wanted == name) {
                fs::remove_file(path).map_err(GateError::pin(path))?;
                let dir = pins.interface_dir(name);
                fs::remove_dir(&dir).map_err(GateError::pin(&dir))?;
                detached.push(name.clone());
            } else {
                left += 1;
            }
        }
        if let Some(name) = interface
            && detached.is_empty()
        {
            return Err(GateError::NoInterface(name.to_owned()));
        }
        if left == 0 {
            pins.remove_all()?;
        }
        Ok(detached)
    }

    /// The program that is pinned is this binary's.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn is_own(&self) -> Result<bool, GateError> {
        match &self.pins {
            Some(pins) => Ok(Maps::info_of(pins)?.object == crate::object::sha256()),
            None => Ok(true),
        }
    }

    /// Lets the `steer` program choose among the shards' sockets, which are of one `SO_REUSEPORT` group; `sockets[n]` is shard
    /// `n`'s. Works without a gate. It ends with the sockets, or with [`Self::unsteer`], after which it can be called again.
    ///
    /// # Errors
    /// The programs were not loaded by this process, there are more shards than sockets have places, or the kernel refuses.
    pub fn steer(&mut self, sockets: &[BorrowedFd<'_>]) -> Result<(), GateError> {
        let Some(first) = sockets.first() else { return Ok(()) };
        if sockets.len() > SHARDS_MAX as usize {
            return Err(GateError::Full { map: abi::SOCKETS, entries_max: SHARDS_MAX as usize });
        }
        for (shard, socket) in sockets.iter().enumerate() {
            let raw = socket.as_raw_fd();
            // The kernel refuses a socket that is there already, from an earlier call; one that is not there is fine.
            let _ = self.maps.sockets.clear_index(&(shard as u32));
            self.maps.sockets.set(shard as u32, &raw, 0).map_err(GateError::map(abi::SOCKETS))?;
        }
        let programs =
            self.programs.as_mut().ok_or_else(|| GateError::Load("it was not loaded here".into()))?;
        let fail = |error: ProgramError| GateError::load("steering")(&error);
        let program: &mut SkReuseport = programs
            .program_mut(abi::PROGRAM_STEER)
            .ok_or_else(|| GateError::Load("the object has no program to steer".into()))?
            .try_into()
            .map_err(fail)?;
        if program.fd().is_err() {
            program.load().map_err(fail)?;
        }
        program.attach(first).map_err(fail)
    }

    /// Leaves the choice among the sockets to the kernel again.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn unsteer(socket: BorrowedFd<'_>) -> Result<(), GateError> {
        SkReuseport::detach(socket).map_err(|error| GateError::load("steering")(&error))
    }
}

pub(crate) fn require(missing: Vec<features::Missing>) -> Result<(), GateError> {
    if missing.is_empty() { Ok(()) } else { Err(GateError::Missing(missing)) }
}

/// Reads the object and makes its maps, or takes those that are pinned. Nothing is verified yet.
fn load_object(pins: Option<&Pins>) -> Result<Ebpf, GateError> {
    let mut loader = EbpfLoader::new();
    // The object has no relocations against the kernel's own types.
    loader.btf(None);
    if let Some(pins) = pins {
        for name in PROGRAM_MAPS {
            loader.map_pin_path(name, pins.map(name));
        }
    }
    loader.load(crate::object::OBJECT).map_err(|error| GateError::load("its maps")(&error))
}

pub(crate) fn take_map(programs: &mut Ebpf, name: &str) -> Result<Map, GateError> {
    programs
        .take_map(name)
        .ok_or_else(|| GateError::Map { map: name.to_owned(), why: "is not in the object".into() })
}

/// New maps, pinned.
fn make_maps(pins: &Pins) -> Result<Maps, GateError> {
    for dir in [Some(pins.maps_dir()), pins.program().parent().map(Path::to_owned)].into_iter().flatten() {
        fs::create_dir_all(&dir).map_err(GateError::pin(&dir))?;
    }
    drop(load_object(Some(pins))?);
    Maps::create(Some(pins), |name| crate::maps::pinned(pins, name))
}

fn info_id(pins: &Pins) -> Option<u32> {
    sys::map_id(&pins.map(INFO)).ok()
}

/// The gate's program, verified and in the kernel.
fn xdp(programs: &mut Ebpf) -> Result<&mut Xdp, GateError> {
    let fail = |error: ProgramError| GateError::load("its program")(&error);
    let program: &mut Xdp = programs
        .program_mut(abi::PROGRAM_GATE)
        .ok_or_else(|| GateError::Load("the object has no gate".into()))?
        .try_into()
        .map_err(fail)?;
    if program.fd().is_err() {
        program.load().map_err(fail)?;
    }
    Ok(program)
}

/// Makes this the program that further interfaces get.
fn pin_program(program: &mut Xdp, pins: &Pins) -> Result<(), GateError> {
    let (path, new) = (pins.program(), pins.program().with_file_name("gate_new"));
    let _ = fs::remove_file(&new);
    program.pin(&new).map_err(|error| GateError::Load(format!("{}: {error}", new.display())))?;
    fs::rename(&new, &path).map_err(GateError::pin(&path))
}

/// Loads this binary's program on the maps of `maps` and gives it to every link of `pins`.
fn relink(maps: &Pins, pins: &Pins) -> Result<(), GateError> {
    let mut programs = load_object(Some(maps))?;
    let program = xdp(&mut programs)?;
    for (interface, _, path) in pins.links()? {
        if !sys::xdp_link(&path).is_ok_and(|link| link.interface_index != 0) {
            continue;
        }
        let fail = |why: String| GateError::Load(format!("the link of {interface}: {why}"));
        let link = PinnedLink::from_pin(&path).map_err(|error| fail(error.to_string()))?;
        let link = XdpLink::try_from(FdLink::from(link)).map_err(|error| fail(error.to_string()))?;
        let id = program.attach_to_link(link).map_err(|error| fail(crate::error::chain(&error)))?;
        // The pin keeps it.
        drop(program.take_link(id));
    }
    pin_program(program, pins)
}

fn attachments(pins: &Pins) -> Result<Vec<Attachment>, GateError> {
    let current = ProgramInfo::from_pin(pins.program()).ok().map(|info| info.id());
    let mut attachments = Vec::new();
    for (interface, mode, path) in pins.links()? {
        let link = sys::xdp_link(&path).map_err(GateError::pin(&path))?;
        attachments.push(Attachment {
            is_alive: link.interface_index != 0,
            is_current: current == Some(link.program_id),
            program_id: link.program_id,
            interface,
            mode,
        });
    }
    Ok(attachments)
}

/// Attaches a program; the result lives as long as it is held or pinned.
fn link(program: &mut Xdp, name: &str, index: u32, mode: Mode) -> Result<FdLink, GateError> {
    let flags = match mode {
        Mode::Native => XdpMode::Driver,
        Mode::Generic => XdpMode::Skb,
    };
    let id = program.attach_to_if_index(index, flags).map_err(|error| refused(name, mode, &error))?;
    let link = program.take_link(id).map_err(|error| refused(name, mode, &error))?;
    FdLink::try_from(link).map_err(|_| GateError::Attach {
        interface: name.to_owned(),
        mode,
        why: "this kernel has no BPF links for XDP, by which the gate outlives the daemon (Linux 5.9 has)"
            .into(),
    })
}

/// What a refusal means.
fn refused(name: &str, mode: Mode, error: &ProgramError) -> GateError {
    let errno = errno(error);
    if errno == Some(libc::EBUSY) || errno == Some(libc::EEXIST) {
        return GateError::Occupied(name.to_owned());
    }
    let mut why = crate::error::chain(error);
    for hint in interface::hints(name, errno) {
        why.push_str("; ");
        why.push_str(&hint);
    }
    GateError::Attach { interface: name.to_owned(), mode, why }
}

pub(crate) fn errno(error: &ProgramError) -> Option<i32> {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        if let Some(call) = error.downcast_ref::<aya::sys::SyscallError>() {
            return call.io_error.raw_os_error();
        }
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return io.raw_os_error();
        }
        source = error.source();
    }
    match error {
        ProgramError::SyscallError(call) => call.io_error.raw_os_error(),
        _ => None,
    }
}
