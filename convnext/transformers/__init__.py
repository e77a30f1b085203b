"""ConvNeXt by the names of Hugging Face transformers: its classes, arguments and outputs, in JAX.

    from convnext import ConvNextForImageClassification, ConvNextImageProcessor

    processor = ConvNextImageProcessor.from_pretrained("facebook/convnext-tiny-224")
    model = ConvNextForImageClassification.from_pretrained("facebook/convnext-tiny-224")
    logits = model(**processor(image, return_tensors="np")).logits

Images and maps are [N, C, H, W] here, as in all frameworks of that library. A model holds `config`,
`module` (the ConvNeXt of Flax) and `params`. Under jit and grad parameters are an argument:

    jax.grad(lambda params: model(pixel_values, labels, params=params).loss)(model.params)

docs/transformers.md has that library's page line by line, and what differs.
"""
