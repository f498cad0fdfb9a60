//! The write-ahead log, looked at before SQLite does.
//!
//! SQLite takes the log up to the first frame whose checksum is wrong, without a word: after a power loss that is where
//! the last transaction was cut off. But every commit is synced before the next one is written. So if whole
//! transactions of the same log lie behind such a frame, it was whole once, and has most likely been damaged since. (A
//! power loss at the very moment in which a log begins anew can leave the same; what lies behind is then in the file
//! already.) So this is for a check to tell, not a reason to refuse a file.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use crate::error::StoreError;

const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;

/// The log of a file.
pub(crate) fn path(file: &Path) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push("-wal");
    file.with_file_name(name)
}

/// What is wrong with a file's log, if something is.
pub(crate) fn damage(file: &Path) -> Result<Option<String>, StoreError> {
    match File::open(path(file)) {
        Ok(log) => examine(BufReader::new(log)).or_else(|error| match error.kind() {
            ErrorKind::UnexpectedEof => Ok(None),
            _ => Err(StoreError::DamagedFile(format!("the write-ahead log cannot be read: {}", error.kind()))),
        }),
        Err(_) => Ok(None),
    }
}

fn examine(mut log: impl Read) -> Result<Option<String>, std::io::Error> {
    let mut header = [0; HEADER];
    log.read_exact(&mut header)?;
    let word = |at: usize| be(&header, at);
    let page = usize::try_from(word(8)).unwrap_or(0);
    let big_endian = word(0) & 1 == 1;
    let mut sum = checksum(&header[..24], (0, 0), big_endian);
    let sound = word(0) & !1 == 0x377f_0682 && sum == (word(24), word(28));
    if !page.is_power_of_two() || !(512..=65_536).contains(&page) {
        // Without a frame there is nothing to lose.
        let more = log.read(&mut [0; 1])? > 0;
        return Ok(more.then(|| "its header is not what was written".to_owned()));
    }
    let salts = (word(16), word(20));
    let mut frame = vec![0; FRAME_HEADER + page];
    let (mut number, mut broken, mut commits) = (0u64, (!sound).then_some(0), 0);
    loop {
        match log.read_exact(&mut frame) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(error),
        }
        number += 1;
        let of_this_log = (be(&frame, 8), be(&frame, 12)) == salts;
        if broken.is_none() {
            let next = checksum(&frame[FRAME_HEADER..], checksum(&frame[..8], sum, big_endian), big_endian);
            if of_this_log && next == (be(&frame, 16), be(&frame, 20)) {
                sum = next;
                continue;
            }
            if !of_this_log {
                // What an earlier use of the log has left.
                break;
            }
            broken = Some(number);
        } else if !of_this_log && broken != Some(0) {
            break;
        }
        commits += u64::from(be(&frame, 4) != 0);
    }
    // A cut transaction has at most the one commit mark that it ends with, and nothing behind that.
    let damaged = if broken == Some(0) { number > 0 } else { commits > 1 };
    Ok(damaged
        .then(|| format!("frame {} is not what was written; the commits behind it are not read", broken.unwrap_or(0))))
}

fn be(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map_or(0, u32::from_be_bytes)
}

/// The checksum of SQLite's write-ahead log.
fn checksum(bytes: &[u8], (mut a, mut b): (u32, u32), big_endian: bool) -> (u32, u32) {
    let (words, _) = bytes.as_chunks::<4>();
    let word = |bytes: [u8; 4]| if big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) };
    for pair in words.chunks_exact(2) {
        a = a.wrapping_add(word(pair[0])).wrapping_add(b);
        b = b.wrapping_add(word(pair[1])).wrapping_add(a);
    }
    (a, b)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log of three commits of one page each.
    fn log() -> Vec<u8> {
        let (page, mut log) = (512u32, Vec::new());
        for word in [0x377f_0682u32, 3_007_000, page, 0, 7, 8] {
            log.extend_from_slice(&word.to_be_bytes());
        }
        let mut sum = checksum(&log, (0, 0), false);
        let put = |log: &mut Vec<u8>, (a, b): (u32, u32)| {
            log.extend_from_slice(&a.to_be_bytes());
            log.extend_from_slice(&b.to_be_bytes());
        };
        put(&mut log, sum);
        for number in 1..=3u32 {
            let mut head = Vec::new();
            put(&mut head, (number, number));
            let content = vec![u8::try_from(number).unwrap(); 512];
            sum = checksum(&content, checksum(&head, sum, false), false);
            put(&mut head, (7, 8));
            put(&mut head, sum);
            log.extend(head);
            log.extend(content);
        }
        log
    }

    #[test]
    fn damage_before_a_commit_is_told_from_a_commit_that_was_cut_off() {
        let whole = log();
        assert_eq!(examine(&*whole).unwrap(), None);
        let frame = FRAME_HEADER + 512;
        for (place, is_damage) in
            [(HEADER + 100, true), (HEADER + frame + 100, true), (HEADER + 2 * frame + 100, false)]
        {
            let mut log = whole.clone();
            log[place] ^= 1;
            assert_eq!(examine(&*log).unwrap().is_some(), is_damage, "{place}");
        }
        let cut = &whole[..whole.len() - 300];
        assert_eq!(examine(cut).unwrap(), None);
        let mut header = whole.clone();
        header[5] ^= 1;
        assert!(examine(&*header).unwrap().is_some());
    }
}
