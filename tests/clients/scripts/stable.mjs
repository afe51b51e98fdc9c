// @stable-canvas/comfyui-client: a graph made by the client, a prompt with progress, polling, and what is installed.
import { createRequire } from "node:module"
const [url, file, folder] = process.argv.slice(2)
const load = createRequire(`${folder}/package.json`)
const { Client, Workflow } = load("@stable-canvas/comfyui-client")
const prompt = load(file)
const client = new Client({ api_host: new URL(url).host, WebSocket: load("ws"), fetch })
client.connect()
const steps = []
const first = await client.enqueue(prompt, { progress: ({ value, max }) => steps.push(`${value}/${max}`) })
console.log("images", JSON.stringify(first.images.map((image) => image.type)), "steps", steps.join(" "))
const workflow = new Workflow()
const { CheckpointLoaderSimple, CLIPTextEncode, EmptyLatentImage, KSampler, VAEDecode, SaveImage } = workflow.classes
const [model, clip, vae] = CheckpointLoaderSimple({ ckpt_name: "tiny" })
const [text] = CLIPTextEncode({ text: "a blue star", clip })
const [latent] = EmptyLatentImage({ width: 64, height: 64, batch_size: 2 })
const [samples] = KSampler({
  seed: 5, steps: 2, cfg: 1, sampler_name: "euler", scheduler: "normal", denoise: 1, model, positive: text,
  negative: text, latent_image: latent,
})
const [images] = VAEDecode({ samples, vae })
SaveImage({ images, filename_prefix: "stable" })
const second = await workflow.invoke(client)
console.log("made", second.images.length)
const third = await client.enqueue_polling(prompt)
console.log("polled", third.images.length)
console.log("samplers", (await client.getSamplers()).includes("euler"), "models", (await client.getSDModels()).includes("tiny"))
console.log("system", (await client.getSystemStats()).system.os, "queue", JSON.stringify(await client.getQueue()))
client.close()
process.exit(0)
