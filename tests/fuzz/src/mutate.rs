//! Changes inputs the way broken networks, broken peers and attackers do: flips, boundary values, cuts, extensions, splices,
//! other packets' types. Reproducible: everything follows from the random generator.

use fastrand::Rng;

/// Longest input made; longer than any datagram a parser accepts.
pub const LEN_MAX: usize = 2048;

const BOUNDARY_WORDS: [u32; 12] = [
    0,
    1,
    2,
    0x7FFF_FFFE,
    0x7FFF_FFFF,
    0x8000_0000,
    0x8000_0001,
    0xFFFF_FFFE,
    0xFFFF_FFFF,
    0x0000_FFFF,
    0x00FF_FFFF,
    0x3FFF_FFFF,
];

/// First words of every packet type of SRTLA and SRT, and some of none.
const TYPES: [u16; 28] = [
    0x9000, 0x9100, 0x9200, 0x9201, 0x9202, 0x9210, 0x9211, 0x9212, 0x9300, 0xA000, 0xA001, 0x8000, 0x8001,
    0x8002, 0x8003, 0x8004, 0x8005, 0x8006, 0x8007, 0x8008, 0x8009, 0xFFFF, 0x8FFF, 0xFFFE, 0x0000, 0x7FFF,
    0x9001, 0x90FF,
];

/// SRT header, the part that decides where a packet goes.
const HEADER_LEN: usize = 16;

/// Makes `out` a changed copy of `input`; `other` is another input to splice with. One to three changes, now and then none
/// (a replay) or nothing but noise.
pub fn mutate(rng: &mut Rng, input: &[u8], other: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&input[..input.len().min(LEN_MAX)]);
    match rng.u8(..) {
        0..8 => return,
        8..12 => {
            out.clear();
            out.extend((0..rng.usize(..LEN_MAX)).map(|_| rng.u8(..)));
            return;
        }
        _ => {}
    }
    for _ in 0..rng.usize(1..=3) {
        change(rng, other, out);
    }
}

fn change(rng: &mut Rng, other: &[u8], out: &mut Vec<u8>) {
    match rng.u8(..12) {
        // Bits anywhere; in the header only; behind the header only.
        0 => flip(rng, out, 0, usize::MAX),
        1 => flip(rng, out, 0, HEADER_LEN),
        2 => flip(rng, out, HEADER_LEN, usize::MAX),
        3 => {
            let words = out.len() / 4;
            if words > 0 {
                let at = 4 * rng.usize(..words);
                let word = match rng.u8(..4) {
                    0 => rng.u32(..),
                    1 => read_word(out, at).wrapping_add(rng.u32(..512)).wrapping_sub(256),
                    _ => BOUNDARY_WORDS[rng.usize(..BOUNDARY_WORDS.len())],
                };
                out[at..at + 4].copy_from_slice(&word.to_be_bytes());
            }
        }
        4 => {
            let len = rng.usize(..=out.len());
            out.truncate(if rng.bool() { len } else { len / 4 * 4 });
        }
        5 => {
            let len = rng.usize(out.len()..=LEN_MAX.max(out.len()));
            let fill = [0, 0xFF, rng.u8(..)][rng.usize(..3)];
            out.resize(len, fill);
        }
        6 => {
            let (head, tail) = (rng.usize(..=out.len()), rng.usize(..=other.len()));
            out.truncate(head);
            out.extend_from_slice(&other[tail..]);
        }
        7 => {
            let kind = TYPES[rng.usize(..TYPES.len())].to_be_bytes();
            if let Some(head) = out.first_chunk_mut() {
                *head = kind;
            }
        }
        8 => {
            let words = out.len() / 4;
            if words > 1 {
                let (a, b) = (4 * rng.usize(..words), 4 * rng.usize(..words));
                let (x, y) = (read_word(out, a), read_word(out, b));
                out[a..a + 4].copy_from_slice(&y.to_be_bytes());
                out[b..b + 4].copy_from_slice(&x.to_be_bytes());
            }
        }
        9 => {
            let from = rng.usize(..=out.len());
            let to = rng.usize(from..=out.len());
            let block = out[from..to].to_vec();
            for _ in 0..rng.usize(1..4) {
                out.extend_from_slice(&block);
            }
        }
        10 => {
            // The header of this packet on the body of another.
            out.truncate(HEADER_LEN);
            out.extend_from_slice(other.get(HEADER_LEN..).unwrap_or_default());
        }
        _ => {
            if !out.is_empty() {
                let at = rng.usize(..out.len());
                out[at] = rng.u8(..);
            }
        }
    }
    out.truncate(LEN_MAX);
}

fn flip(rng: &mut Rng, out: &mut [u8], from: usize, to: usize) {
    let to = to.min(out.len());
    if from < to {
        for _ in 0..rng.usize(1..=4) {
            out[rng.usize(from..to)] ^= 1 << rng.u8(..8);
        }
    }
}

fn read_word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mutants_are_reproducible_bounded_and_varied() {
        let input: Vec<u8> = (0..200).collect();
        let other = vec![0xAA; 1500];
        let run = |seed| {
            let mut rng = Rng::with_seed(seed);
            let mut out = Vec::new();
            (0..2000)
                .map(|_| {
                    mutate(&mut rng, &input, &other, &mut out);
                    assert!(out.len() <= LEN_MAX);
                    out.clone()
                })
                .collect::<Vec<_>>()
        };
        let mutants = run(1);
        assert_eq!(mutants, run(1));
        let mut unique = mutants.clone();
        unique.sort();
        unique.dedup();
        assert!(unique.len() > 1500, "only {} of 2000 mutants differ", unique.len());
        let replays = mutants.iter().filter(|mutant| **mutant == input).count();
        assert!((10..300).contains(&replays), "{replays} replays");
        assert!(mutants.iter().any(Vec::is_empty) && mutants.iter().any(|mutant| mutant.len() > 1500));
    }
}
