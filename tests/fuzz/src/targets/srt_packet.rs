//! The SRT codec: whatever parses is written back and reads the same; bodies and extensions answer for any bytes.

use bondgate_srt::packet::{self, Control, HsExtension, KmMessage, Packet};

pub fn run(data: &[u8]) {
    match packet::parse(data) {
        Err(_) => {}
        Ok(Packet::Data(view)) => {
            assert_eq!(view.payload().len(), data.len() - 16);
            let mut header = [0; 16];
            assert_eq!(view.repr().emit(&mut header), Some(16));
            assert_eq!(header, data[..16], "{view:?}");
        }
        Ok(Packet::Control(view)) => {
            let Ok(control) = view.control() else { return };
            inspect(&control);
            let mut out = vec![0; data.len() + 64];
            let len = control.emit(view.timestamp(), view.dst(), &mut out).expect("there is room");
            let Ok(Packet::Control(again)) = packet::parse(&out[..len]) else {
                panic!("{control:?} is not read back")
            };
            assert_eq!(
                (again.kind(), again.timestamp(), again.dst()),
                (view.kind(), view.timestamp(), view.dst())
            );
            let again = again.control().expect("what was written is well-formed");
            assert_eq!(format!("{again:?}"), format!("{control:?}"));
        }
    }
}

fn inspect(control: &Control<'_>) {
    match control {
        Control::Nak(list) => {
            let ranges = list.clone().take_while(Result::is_ok).count();
            assert!(ranges <= list.bytes().len() / 4);
        }
        Control::Handshake(handshake) => {
            let mut text = [0; 512];
            for extension in handshake.extensions().map_while(Result::ok) {
                if let Ok(len) = extension.text(&mut text) {
                    assert!(len <= extension.contents.len());
                }
                let _ = HsExtension::parse(extension.contents);
                if let Ok(KmMessage::Keys(keys)) = KmMessage::parse(extension.contents) {
                    assert!(keys.len() <= KmMessage::LEN_MAX);
                }
            }
        }
        Control::User { body, .. } => {
            let _ = KmMessage::parse(body);
        }
        _ => {}
    }
}
