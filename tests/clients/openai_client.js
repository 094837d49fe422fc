// The official TypeScript client (its JavaScript build) against the service at argv[2]; prints what it got as JSON.
const { createRequire } = require('node:module');
const load = createRequire(process.argv[3] + '/index.js');
const { default: OpenAI, toFile } = load('openai');

async function main() {
  const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: 'none', maxRetries: 0 });
  const found = {};
  const drawn = await client.images.generate({ prompt: 'a cat', n: 2, seed: 7, num_inference_steps: 9 });
  found.seeds = drawn.data.map((each) => each.seed);
  found.bytes = Buffer.from(drawn.data[0].b64_json, 'base64').subarray(1, 4).toString();
  found.request = typeof drawn._request_id;
  const png = Buffer.from(drawn.data[0].b64_json, 'base64');
  const edited = await client.images.edit({ image: await toFile(png, 'a.png', { type: 'image/png' }), prompt: 'a hat' });
  found.edited = edited.data.length;
  const varied = await client.images.createVariation({ image: await toFile(png, 'a.png', { type: 'image/png' }), n: 2 });
  found.varied = varied.data.length;
  const linked = await client.images.generate({ prompt: 'a cat', response_format: 'url', seed: 7 });
  found.linked = Buffer.from(await (await fetch(linked.data[0].url)).arrayBuffer()).subarray(1, 4).toString();
  const kinds = [];
  for await (const event of await client.images.generate({ prompt: 'a', stream: true, partial_images: 2 })) kinds.push(event.type);
  found.kinds = kinds;
  found.models = (await client.models.list()).data.map((each) => each.id);
  const repeated = { headers: { 'Idempotency-Key': 'k1' } };
  const [one, two] = [await client.images.generate({ prompt: 'b' }, repeated), await client.images.generate({ prompt: 'b' }, repeated)];
  found.repeated = one.data[0].b64_json === two.data[0].b64_json;
  const lines = JSON.stringify({ custom_id: 'a', method: 'POST', url: '/v1/images/generations', body: { prompt: 'a' } });
  const file = await client.files.create({ file: await toFile(Buffer.from(lines), 'x.jsonl'), purpose: 'batch' });
  const batch = await client.batches.create({ input_file_id: file.id, endpoint: '/v1/images/generations', completion_window: '24h' });
  found.batch = (await client.batches.retrieve(batch.id)).status;
  found.cancelled = (await client.batches.cancel(batch.id)).status;
  found.listed = (await client.files.list()).data.length;
  try {
    await client.images.generate({ prompt: '', n: 1 });
  } catch (error) {
    found.error = [error.constructor.name, error.status, error.param];
  }
  try {
    await client.images.generate({ prompt: 'a', model: 'nobody' });
  } catch (error) {
    found.missing = error.constructor.name;
  }
  console.log(JSON.stringify(found));
}

main().catch((error) => { console.error(error); process.exit(1); });
