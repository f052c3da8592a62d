//! What the end-to-end tests share: real processes, real sockets, and honest bookkeeping about both.
//!
//! * [`harness`]: suites whose tests may be impossible on this machine; a skip is printed, counted, and never "ok".
//! * [`scene`]: one test's directory, ports, and the logs of everything it started (printed when it fails).
//! * [`process`]: children that end with the test, by id.
//! * [`bondgate`]: building, configuring and starting the binary under test.
//! * [`media`]: encoders and viewers (ffmpeg, srt-live-transmit), and a synthetic transport stream.
//! * [`ledger`]: was everything that was sent received, once, in order, bit-exact?
//! * [`relay`]: links between real sockets, impaired by the simulator's link model.
//! * [`tap`]: what encoders really put on the wire.
//! * [`netns`]: hosts made of network namespaces (root only).
//! * [`pins`]: a BPF file system of a test's own (root only).
//! * [`attack`]: what attackers have: forged sources, packets of every kind, ears on the wire.
//!
//! Promise: nothing here leaves loopback or a namespace it made, every wait has an end, every port is free when
//! handed out.

pub mod attack;
pub mod bondgate;
pub mod harness;
pub mod ledger;
pub mod media;
pub mod netns;
pub mod pins;
pub mod process;
pub mod relay;
pub mod scene;
pub mod tap;
