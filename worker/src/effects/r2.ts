/** Streaming into R2 with a known or unknown length: one put up to a part's size, multipart above. */

/** bytes: R2 wants at least 5 MiB for every part but the last, and all of one size. */
const PART = 8 * 1024 * 1024;

export class R2Writer {
  readonly #bucket: R2Bucket;
  readonly #key: string;
  readonly #options: R2PutOptions & R2MultipartOptions;
  #part = new Uint8Array(64 * 1024);
  #used = 0;
  #upload: R2MultipartUpload | null = null;
  readonly #parts: R2UploadedPart[] = [];
  size = 0;

  constructor(bucket: R2Bucket, key: string, options: R2MultipartOptions = {}) {
    this.#bucket = bucket;
    this.#key = key;
    this.#options = options;
  }

  async write(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.byteLength; ) {
      if (this.#used === this.#part.byteLength) await this.#grow();
      const n = Math.min(bytes.byteLength - at, this.#part.byteLength - this.#used);
      this.#part.set(bytes.subarray(at, at + n), this.#used);
      this.#used += n;
      at += n;
    }
    this.size += bytes.byteLength;
  }

  /** Makes room: doubles the buffer up to a part, then uploads full parts. */
  async #grow(): Promise<void> {
    if (this.#part.byteLength < PART) {
      const bigger = new Uint8Array(Math.min(PART, this.#part.byteLength * 2));
      bigger.set(this.#part);
      this.#part = bigger;
      return;
    }
    this.#upload ??= await this.#bucket.createMultipartUpload(this.#key, this.#options);
    this.#parts.push(await this.#upload.uploadPart(this.#parts.length + 1, this.#part.subarray(0, this.#used)));
    this.#used = 0;
  }

  /** Makes the object visible, whole. */
  async close(): Promise<void> {
    const rest = this.#part.subarray(0, this.#used);
    if (this.#upload === null) {
      await this.#bucket.put(this.#key, rest, this.#options);
      return;
    }
    if (rest.byteLength > 0) this.#parts.push(await this.#upload.uploadPart(this.#parts.length + 1, rest));
    await this.#upload.complete(this.#parts);
  }

  /** Leaves nothing behind. */
  async abort(): Promise<void> {
    await this.#upload?.abort().catch(() => {});
  }
}
