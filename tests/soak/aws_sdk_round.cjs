// The round of the AWS SDK for JavaScript 3, which tests/soak/test_s3_clients.py starts: FOLDER is the argument.
const fs = require("node:fs");
const path = require("node:path");
const assert = require("node:assert");
const sdk = require("@aws-sdk/client-s3");
const { Upload } = require("@aws-sdk/lib-storage");

const Bucket = "js-bucket";
const MIB = 1 << 20;

async function body(client, Key, more = {}) {
  const got = await client.send(new sdk.GetObjectCommand({ Bucket, Key, ...more }));
  return Buffer.from(await got.Body.transformToByteArray());
}

async function putAll(client, folder, names) {
  for (const name of names) {
    const Body = fs.createReadStream(path.join(folder, name));
    const params = { Bucket, Key: `x/${name}`, Body };
    await new Upload({ client, params, partSize: 5 * MIB, queueSize: 4 }).done();
  }
}

async function keys(client) {
  const found = [];
  for await (const page of sdk.paginateListObjectsV2({ client, pageSize: 2 }, { Bucket })) {
    found.push(...(page.Contents ?? []).map((each) => each.Key));
  }
  return found;
}

async function main(folder) {
  const client = new sdk.S3Client({ forcePathStyle: true });
  const names = fs.readdirSync(folder);
  await client.send(new sdk.CreateBucketCommand({ Bucket }));
  await putAll(client, folder, names);
  const big = fs.readFileSync(path.join(folder, "big"));
  for (const name of names) {
    assert.deepStrictEqual(await body(client, `x/${name}`), fs.readFileSync(path.join(folder, name)));
  }
  assert.deepStrictEqual(await body(client, "x/big", { Range: "bytes=10-19" }), big.subarray(10, 20));
  await client.send(new sdk.PutObjectCommand({ Bucket, Key: "once", Body: "1", IfNoneMatch: "*" }));
  await assert.rejects(
    client.send(new sdk.PutObjectCommand({ Bucket, Key: "once", Body: "2", IfNoneMatch: "*" })),
    { name: "PreconditionFailed" },
  );
  const CopySource = `${Bucket}/x/${encodeURIComponent("é+%")}`;
  await client.send(new sdk.CopyObjectCommand({ Bucket, Key: "copy", CopySource }));
  assert.deepStrictEqual(await body(client, "copy"), fs.readFileSync(path.join(folder, "é+%")));
  const found = await keys(client);
  assert.deepStrictEqual(found, ["copy", "once", "x/a b", "x/big", "x/empty", "x/é+%"]);
  const Objects = found.map((Key) => ({ Key }));
  const gone = await client.send(new sdk.DeleteObjectsCommand({ Bucket, Delete: { Objects } }));
  assert.strictEqual(gone.Deleted.length, found.length);
  await client.send(new sdk.DeleteBucketCommand({ Bucket }));
  console.log("the round is done");
}

main(process.argv[2]).catch((error) => {
  console.error(error);
  process.exit(1);
});
