// The orientation of a JPEG. Browsers apply it; it tells where a decoder that scales down begins.

const HEADER_BYTES = 2 ** 18;

/** Return the orientation of a JPEG by its EXIF, 1 to 8 (1 without one); 0 if it is no JPEG. */
async function jpegOrientation(blob) {
  const data = new DataView(await blob.slice(0, HEADER_BYTES).arrayBuffer());
  if (data.byteLength < 4 || data.getUint16(0) !== 0xffd8) return 0;
  let at = 2;
  // Segments: marker, length, content; after 0xffda, pixels follow.
  while (at + 10 < data.byteLength && data.getUint8(at) === 0xff) {
    const marker = data.getUint16(at);
    const end = at + 2 + data.getUint16(at + 2);
    if (marker === 0xffda) break;
    if (marker === 0xffe1 && data.getUint32(at + 4) === 0x45786966) {
      return exifOrientation(data, at + 10, Math.min(end, data.byteLength));
    }
    at = end;
  }
  return 1;
}

/** Return the orientation in a block of EXIF, 1 to 8. */
function exifOrientation(data, start, end) {
  const isLittle = data.getUint16(start) === 0x4949;
  const first = start + 8 <= end ? start + data.getUint32(start + 4, isLittle) : end;
  const count = first + 2 <= end ? data.getUint16(first, isLittle) : 0;
  for (let at = first + 2; at + 12 <= Math.min(end, first + 2 + 12 * count); at += 12) {
    if (data.getUint16(at, isLittle) !== 0x0112) continue;
    const value = data.getUint16(at + 8, isLittle);
    return value >= 1 && value <= 8 ? value : 1;
  }
  return 1;
}
