//! The reader and the driver of a blob: in any order of use, both return the verdict, and neither waits for
//! the other to be polled.

use longshore::{BlobDriver, BlobError, BlobReader};
use test_support::fixture::{OpenImageFixture, blob_error, library_error, read_all};
use test_support::leaks::run;
use test_support::peer::{Flow, Framing};
use test_support::{noise, sha256, within_bound};
use tokio::io::{AsyncBufReadExt, AsyncReadExt};

/// More bytes than fit into a pipe.
const SIZE: usize = 1_000_000;

/// A connection with an open image, and a split blob on it.
struct Split {
    fixture: OpenImageFixture,
    reader: BlobReader,
    driver: BlobDriver,
    flow: Flow,
}

async fn split(framing: Framing, wanted: &[u8]) -> Split {
    split_on(
        OpenImageFixture::with_short_stall_timeout(framing).await,
        wanted,
    )
    .await
}

async fn split_on(mut fixture: OpenImageFixture, wanted: &[u8]) -> Split {
    let size = wanted.len() as u64;
    let (blob, flow) = fixture.get(&sha256(wanted), size, size.cast_signed()).await;
    let (reader, driver) = blob.unwrap().split();
    Split {
        fixture,
        reader,
        driver,
        flow,
    }
}

/// Sends `sent` and ends the blob, while `consume` uses the halves.
async fn consumed<T>(
    framing: Framing,
    wanted: &[u8],
    sent: &[u8],
    consume: impl AsyncFnOnce(BlobReader, BlobDriver) -> T,
) -> T {
    let Split {
        mut fixture,
        reader,
        driver,
        mut flow,
    } = split(framing, wanted).await;
    let serve = async {
        flow.write(sent).await;
        flow.end(&mut fixture.peer, None).await;
    };
    let (result, ()) = tokio::join!(within_bound(consume(reader, driver)), serve);
    fixture.end().await;
    result
}

#[test]
fn reader_first_then_driver() {
    run(async {
        let content = noise(SIZE, 1);
        for framing in Framing::BOTH {
            let read = consumed(framing, &content, &content, async |mut reader, driver| {
                let read = read_all(&mut reader).await.unwrap();
                drop(reader);
                driver.await.unwrap();
                read
            })
            .await;
            assert!(read == content);
        }
    });
}

#[test]
fn driver_in_a_task_and_reader_here() {
    run(async {
        let content = noise(SIZE, 1);
        for framing in Framing::BOTH {
            let read = consumed(framing, &content, &content, async |mut reader, driver| {
                let driver = tokio::spawn(driver);
                let read = read_all(&mut reader).await.unwrap();
                driver.await.unwrap().unwrap();
                read
            })
            .await;
            assert!(read == content);
        }
    });
}

#[test]
fn reader_in_a_task_and_the_driver_awaited_first() {
    run(async {
        let content = noise(SIZE, 1);
        for framing in Framing::BOTH {
            let read = consumed(framing, &content, &content, async |mut reader, driver| {
                let read = tokio::spawn(async move { read_all(&mut reader).await });
                driver.await.unwrap();
                read.await.unwrap().unwrap()
            })
            .await;
            assert!(read == content);
        }
    });
}

#[test]
fn reader_and_driver_joined() {
    run(async {
        let content = noise(SIZE, 1);
        for framing in Framing::BOTH {
            let read = consumed(framing, &content, &content, async |mut reader, driver| {
                let (read, verdict) = tokio::join!(read_all(&mut reader), driver);
                verdict.unwrap();
                read.unwrap()
            })
            .await;
            assert!(read == content);
        }
    });
}

#[test]
fn the_reader_works_after_its_driver_is_dropped() {
    run(async {
        let content = noise(SIZE, 1);
        for framing in Framing::BOTH {
            let read = consumed(framing, &content, &content, async |mut reader, driver| {
                drop(driver);
                read_all(&mut reader).await.unwrap()
            })
            .await;
            assert!(read == content);
        }
    });
}

#[test]
fn the_driver_ends_while_a_drained_reader_is_held() {
    run(async {
        for size in [0, 1, SIZE] {
            let content = noise(size, 1);
            for framing in Framing::BOTH {
                let read = consumed(framing, &content, &content, async |reader, driver| {
                    let mut taking = reader.take(size as u64);
                    let read = read_all(&mut taking).await.unwrap();
                    driver.await.unwrap();
                    drop(taking);
                    read
                })
                .await;
                assert!(read == content, "{framing:?} {size}");
            }
        }
    });
}

#[test]
fn dropping_a_drained_reader_is_no_error() {
    run(async {
        for size in [0, 1, SIZE] {
            let content = noise(size, 1);
            for framing in Framing::BOTH {
                consumed(framing, &content, &content, async |reader, driver| {
                    read_all(&mut reader.take(size as u64)).await.unwrap();
                    driver.await.unwrap();
                })
                .await;
            }
        }
    });
}

#[test]
fn both_halves_report_wrong_bytes() {
    run(async {
        let content = noise(SIZE, 1);
        let mut corrupt = content.clone();
        corrupt[SIZE / 2] ^= 1;
        for framing in Framing::BOTH {
            let (read, verdict) =
                consumed(framing, &content, &corrupt, async |mut reader, driver| {
                    tokio::join!(read_all(&mut reader), driver)
                })
                .await;
            let read = blob_error(read.unwrap_err());
            assert!(matches!(read, BlobError::Corrupt { .. }), "{read:?}");
            let verdict = blob_error(verdict.unwrap_err());
            assert!(matches!(verdict, BlobError::Corrupt { .. }), "{verdict:?}");
        }
    });
}

#[test]
fn both_halves_report_a_byte_too_many() {
    run(async {
        let long = noise(1001, 1);
        for framing in Framing::BOTH {
            let (read, verdict) =
                consumed(framing, &long[..1000], &long, async |mut reader, driver| {
                    tokio::join!(read_all(&mut reader), driver)
                })
                .await;
            for error in [read.unwrap_err(), verdict.unwrap_err()] {
                let error = blob_error(error);
                assert!(
                    matches!(error, BlobError::TooLong { size: 1000, .. }),
                    "{error:?}"
                );
            }
        }
    });
}

#[test]
fn both_halves_report_a_stall() {
    run(async {
        for framing in Framing::BOTH {
            let Split {
                fixture,
                mut reader,
                driver,
                mut flow,
            } = split(framing, b"content").await;
            flow.write(b"con").await;
            let (read, verdict) =
                within_bound(async { tokio::join!(read_all(&mut reader), driver) }).await;
            let read = blob_error(read.unwrap_err());
            assert!(
                matches!(read, BlobError::Stalled { read: 3, .. }),
                "{read:?}"
            );
            let verdict = blob_error(verdict.unwrap_err());
            assert!(
                matches!(
                    verdict,
                    BlobError::Stalled { .. } | BlobError::Unread { .. }
                ),
                "{verdict:?}"
            );
            drop(reader);
            fixture.end().await;
        }
    });
}

#[test]
fn the_driver_reports_a_reader_that_was_dropped_early() {
    run(async {
        for framing in Framing::BOTH {
            for count in [0, 3] {
                let Split {
                    fixture,
                    mut reader,
                    driver,
                    mut flow,
                } = split(framing, b"content").await;
                flow.write(b"content").await;
                within_bound(reader.read_exact(&mut vec![0; count]))
                    .await
                    .unwrap();
                drop(reader);
                let error = blob_error(within_bound(driver).await.unwrap_err());
                let BlobError::Abandoned { read, .. } = error else {
                    panic!("{error:?}");
                };
                assert_eq!(read, count as u64);
                fixture.end().await;
            }
        }
    });
}

#[test]
fn a_driver_without_a_reading_reader_ends_as_unread() {
    run(async {
        for framing in Framing::BOTH {
            let Split {
                fixture,
                reader,
                driver,
                mut flow,
            } = split(framing, b"content").await;
            flow.write(b"content").await;
            let error = blob_error(within_bound(driver).await.unwrap_err());
            assert!(matches!(error, BlobError::Unread { .. }), "{error:?}");
            drop(reader);
            fixture.end().await;
        }
    });
}

#[test]
fn the_reader_can_read_by_lines() {
    run(async {
        for framing in Framing::BOTH {
            let lines = consumed(framing, b"one\ntwo", b"one\ntwo", async |reader, driver| {
                let mut lines = reader.lines();
                let mut all = Vec::new();
                while let Some(line) = lines.next_line().await.unwrap() {
                    all.push(line);
                }
                driver.await.unwrap();
                all
            })
            .await;
            assert_eq!(lines, ["one", "two"]);
        }
    });
}

#[test]
fn a_reader_without_a_driver_reports_a_broken_transfer() {
    run(async {
        for error in [None, Some("cut")] {
            let Split {
                mut fixture,
                mut reader,
                driver,
                mut flow,
            } = split_on(OpenImageFixture::new(Framing::Raw).await, b"content").await;
            flow.write(b"con").await;
            // This task has no timer that would wake it by chance.
            let reading = tokio::spawn(async move { reader.read_to_end(&mut Vec::new()).await });
            flow.end(&mut fixture.peer, error).await;
            let read = blob_error(library_error(
                within_bound(reading).await.unwrap().unwrap_err(),
            ));
            let driven = blob_error(within_bound(driver).await.unwrap_err());
            for found in [read, driven] {
                match error {
                    None => assert!(matches!(found, BlobError::Short { .. }), "{found:?}"),
                    Some(_) => assert!(matches!(found, BlobError::Refused(_)), "{found:?}"),
                }
            }
            fixture.end().await;
        }
    });
}
