"""Real clients of q3 serve, each as its documentation calls it → what they got, as JSON."""

import json
import sys

import cohere
import openai
from huggingface_hub import InferenceClient
from langchain_openai import OpenAIEmbeddings
from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference

job = json.load(sys.stdin)
url, key, name, texts, query = (job[field] for field in ("url", "key", "model", "texts", "query"))
found: dict[str, object] = {}

client = openai.OpenAI(base_url=f"{url}/v1", api_key=key)
answer = client.embeddings.create(model=name, input=texts)
found["openai"] = [item.embedding for item in answer.data]
found["openai usage"] = answer.usage.prompt_tokens
floats = client.embeddings.create(model=name, input=texts, encoding_format="float", dimensions=64)
found["openai 64 floats"] = [item.embedding for item in floats.data]
prompted = client.embeddings.create(model=name, input=query, extra_body={"input_type": "query"})
found["openai query"] = [prompted.data[0].embedding]
found["openai models"] = [model.id for model in client.models.list()]
try:
    client.embeddings.create(model="nobody", input=texts)
except openai.NotFoundError as error:
    found["openai unknown model"] = [error.status_code, error.code, error.param]
try:
    client.embeddings.create(model=name, input=texts, dimensions=7)
except openai.UnprocessableEntityError as error:
    found["openai wrong dimensions"] = [error.status_code, error.code, error.param]
try:
    openai.OpenAI(base_url=f"{url}/v1", api_key="wrong").embeddings.create(model=name, input=texts)
except openai.AuthenticationError as error:
    found["openai wrong key"] = [error.status_code, error.code]

for place in ("", "/embed"):
    hub = InferenceClient(model=url + place, token=key)
    found[f"huggingface_hub {place}"] = hub.feature_extraction(texts).tolist()
found["huggingface_hub query"] = InferenceClient(model=url, token=key).feature_extraction(query, prompt_name="query").tolist()
similar = InferenceClient(model=f"{url}/similarity", token=key)
found["huggingface_hub similarity"] = similar.sentence_similarity(query, other_sentences=texts)

chain = OpenAIEmbeddings(base_url=f"{url}/v1", api_key=key, model=name, check_embedding_ctx_length=False)
found["langchain documents"] = chain.embed_documents(texts)
found["langchain query"] = [chain.embed_query(query)]

index = TextEmbeddingsInference(model_name=name, base_url=url, auth_token=key, query_instruction="", text_instruction="")
found["llama-index documents"] = index.get_text_embedding_batch(texts)
found["llama-index query"] = [index.get_query_embedding(query)]

ranked = cohere.ClientV2(api_key=key, base_url=url).rerank(model="judge", query=query, documents=texts, top_n=2)
found["cohere"] = [[result.index, result.relevance_score] for result in ranked.results]

print(json.dumps(found))
