"""Small facts that a chat may ask for, written for this project."""

from data import LISTS, pairs, sections, table

CAPITALS = pairs("""France=Paris Germany=Berlin Italy=Rome Spain=Madrid Portugal=Lisbon Norway=Oslo
Sweden=Stockholm Denmark=Copenhagen Finland=Helsinki Iceland=Reykjavik Ireland=Dublin Poland=Warsaw
Austria=Vienna Switzerland=Bern Belgium=Brussels Greece=Athens Hungary=Budapest Romania=Bucharest
Bulgaria=Sofia Serbia=Belgrade Croatia=Zagreb Estonia=Tallinn Latvia=Riga Lithuania=Vilnius
Ukraine=Kyiv Russia=Moscow Turkey=Ankara Egypt=Cairo Morocco=Rabat Kenya=Nairobi Ghana=Accra
Nigeria=Abuja Ethiopia=Addis_Ababa Japan=Tokyo China=Beijing India=New_Delhi Thailand=Bangkok
Vietnam=Hanoi Indonesia=Jakarta Iran=Tehran Iraq=Baghdad Israel=Jerusalem Canada=Ottawa
Mexico=Mexico_City Cuba=Havana Brazil=Brasilia Argentina=Buenos_Aires Chile=Santiago Peru=Lima
Colombia=Bogota Ecuador=Quito Australia=Canberra New_Zealand=Wellington the_United_Kingdom=London
the_United_States=Washington the_Netherlands=Amsterdam the_Czech_Republic=Prague""")
SOUNDS = pairs("""dog=barks cat=meows cow=moos sheep=bleats horse=neighs duck=quacks lion=roars
bee=buzzes frog=croaks owl=hoots pig=grunts snake=hisses wolf=howls hen=clucks bird=sings""")
LEGS = pairs("""dog=four cat=four cow=four horse=four sheep=four pig=four lion=four elephant=four
frog=four mouse=four spider=eight ant=six bee=six butterfly=six hen=two duck=two owl=two
penguin=two human=two snake=no fish=no whale=no worm=no""")
BABIES = pairs("""dog=puppy cat=kitten cow=calf horse=foal sheep=lamb pig=piglet hen=chick
duck=duckling goose=gosling goat=kid lion=cub bear=cub frog=tadpole kangaroo=joey owl=owlet""")
COLOURS_OF = pairs("""the_sky=blue grass=green snow=white blood=red a_banana=yellow a_lemon=yellow
coal=black a_carrot=orange a_strawberry=red chocolate=brown the_sun=yellow milk=white a_leaf=green
an_elephant=grey a_flamingo=pink a_frog=green a_tomato=red the_sea=blue a_pumpkin=orange
cheese=yellow""")
MIXES = {("red", "yellow"): "orange", ("blue", "yellow"): "green", ("red", "blue"): "purple",
         ("black", "white"): "grey", ("red", "white"): "pink"}  # fmt: skip
OPPOSITES = pairs("""hot=cold big=small up=down left=right open=closed day=night light=dark
old=young fast=slow high=low long=short hard=soft wet=dry full=empty early=late true=false
happy=sad good=bad loud=quiet rich=poor strong=weak thick=thin heavy=light begin=end love=hate
buy=sell push=pull first=last inside=outside black=white yes=no""")
PLURALS = pairs("""cat=cats dog=dogs box=boxes city=cities child=children mouse=mice foot=feet
tooth=teeth man=men woman=women goose=geese leaf=leaves knife=knives wolf=wolves sheep=sheep
fish=fish baby=babies bus=buses key=keys book=books house=houses tomato=tomatoes""")
PLANETS = LISTS["planets"]
MONTHS = LISTS["months"]
MONTH_DAYS = dict(zip(MONTHS, (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31), strict=True))
SEASONS = ["spring", "summer", "autumn", "winter"]
NUMBER_WORDS = LISTS["number_words"]
HELLOS = pairs("""French=Bonjour German=Hallo Spanish=Hola Italian=Ciao Portuguese=Ola Dutch=Hallo
Swedish=Hej Danish=Hej Polish=Czesc Finnish=Hei Japanese=Konnichiwa Turkish=Merhaba""")

JOKES = [
    "Why did the byte go to the doctor? It had lost a bit.",
    "Why do programmers mix up Halloween and Christmas? Because Oct 31 is Dec 25.",
    "I would tell you a joke about UDP, but you might not get it.",
    "Why was the cache so popular? It always remembered.",
    "A mixture of experts walks into a bar. Four of them order.",
]
GLOSSARY, ASKED, CODE = (table(text) for text in sections("facts.txt").values())
